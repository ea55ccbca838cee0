"""A second context on the same weights, for prompts alone."""

import ctypes
import struct
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.cache.cache_size import CacheSize
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import native_params
from handler.engine.llama.model import LlamaModel, Pointer, llama_log
from handler.engine.plan import EnginePlan, PrefillPlan
from handler.errors import DecodeError, ModelError

# What llama_state_seq_get_data writes (llama-context.cpp, llama-kv-cache.cpp): magic, seq_id and the number of streams;
# then for each stream the number of its cells, and their data where there are some.
HEADER = struct.Struct("<IiI")
COUNT_BYTES = 4

State = npt.NDArray[np.uint8]


class LlamaPrefillContext:
    """A `PrefillContext`. Owns a context of llama.cpp; the model is its runner's and outlives it.

    The lane's thread alone. Knows nothing of sequences, and of where the states go but for the number of streams there,
    because llama.cpp refuses the state of a context with another number.
    """

    def __init__(self, model: LlamaModel, plan: EnginePlan, prefill: PrefillPlan, cache: CacheSize) -> None:
        """Raises ModelError if there is no room."""
        self.num_streams = prefill.num_streams
        self.part_tokens = prefill.part_tokens
        self.max_tokens = prefill.max_tokens
        self._num_target_streams = cache.num_slots
        size = cache._replace(n_ctx=prefill.num_streams * prefill.max_tokens, num_slots=prefill.num_streams)
        params = native_params(plan.context, size)
        params.n_batch = params.n_ubatch = prefill.part_tokens
        self._context: Pointer = llama.llama_init_from_model(model.pointer, params)
        if not self._context:
            reason = llama_log.last_error or "it does not say why"
            raise ModelError(f"llama.cpp cannot make a context for prompts: {reason}.")
        self._memory = llama.llama_get_memory(self._context)
        self._buffer = BatchBuffer(prefill.part_tokens)

    def compute(self, stream: int, start: int, token_ids: list[int]) -> None:
        if start == 0:
            llama.llama_memory_seq_rm(self._memory, stream, -1, -1)
        self._buffer.fill_part(stream, start, token_ids)
        code = llama.llama_decode(self._context, self._buffer.struct)
        if code != 0:
            raise DecodeError(f"llama_decode returned {code}.")
        llama.llama_synchronize(self._context)

    def state(self, stream: int) -> State:
        """Bytes for the decoding context: with its number of streams, of which one has cells."""
        size = llama.llama_state_seq_get_size(self._context, stream)
        written = np.empty(size + COUNT_BYTES * self._num_target_streams, np.uint8)
        if llama.llama_state_seq_get_data(self._context, _pointer(written), size, stream) != size:
            raise DecodeError("llama.cpp does not give the state of a prompt.")
        magic, seq_id, _ = HEADER.unpack(written[: HEADER.size].tobytes())
        # Around the cells are the counts of the other streams, all zero: those before them become the header, and as
        # many follow as the other context expects.
        begin = COUNT_BYTES * stream
        end = size - COUNT_BYTES * (self.num_streams - 1 - stream)
        header = HEADER.pack(magic, seq_id, self._num_target_streams)
        written[begin : begin + HEADER.size] = np.frombuffer(header, np.uint8)
        length = end - begin + COUNT_BYTES * (self._num_target_streams - 1)
        written[end : begin + length] = 0
        return written[begin : begin + length]

    def close(self) -> None:
        llama.llama_free(self._context)


def _pointer(array: State) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
