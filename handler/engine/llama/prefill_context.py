"""A second context on the same weights, for prompts alone.

Its cache is a unified one, so that a part may have pieces of any prompts and any lengths: llama.cpp computes a batch of
streams by parts of equal length, one after the other. The mask that this costs is small, since few prompts are in it.
"""

import ctypes
import struct
from dataclasses import replace
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.cache.cache_size import CacheSize
from handler.engine.llama.applied_adapter import AppliedAdapter
from handler.engine.llama.backend import llama_log
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import native_params
from handler.engine.llama.host_buffers import HostBuffers, HostState
from handler.engine.llama.model import LlamaModel, Pointer
from handler.engine.plan import EnginePlan, PrefillPlan
from handler.engine.prefill_queue import Piece
from handler.errors import DecodeError, ModelError

# What llama_state_seq_get_data writes (llama-context.cpp, llama-kv-cache.cpp): magic, seq_id and the number of streams;
# then for each stream the number of its cells, and their data where there are some.
HEADER = struct.Struct("<IiI")
COUNT_BYTES = 4


class LlamaPrefillContext:
    """A `PrefillContext`. Owns a context of llama.cpp; the model is its runner's and outlives it, or its own.

    The lane's thread alone. Knows nothing of sequences, and of where the states go but for the number of streams there,
    because llama.cpp refuses the state of a context with another number.
    """

    def __init__(
        self,
        model: LlamaModel,
        plan: EnginePlan,
        prefill: PrefillPlan,
        cache: CacheSize,
        *,
        owns_model: bool = False,
    ) -> None:
        """`owns_model`: the model is this context's alone, and closed with it. Raises ModelError if there is no room;
        the model is then the caller's."""
        self._owned = model if owns_model else None
        self.num_streams = prefill.num_streams
        self.num_cells = prefill.num_cells
        self.part_tokens = prefill.max_part
        self.max_tokens = prefill.max_tokens
        self.is_16bit = model.is_16bit
        self._num_target_streams = cache.num_slots
        size = cache._replace(n_ctx=prefill.num_cells, num_slots=prefill.num_streams, is_unified=True)
        params = native_params(replace(plan.context, max_draft_tokens=0, max_scored_tokens=0), size)
        params.n_batch = params.n_ubatch = prefill.max_part
        self._context: Pointer = llama.llama_init_from_model(model.pointer, params)
        if not self._context:
            reason = llama_log.last_error or "it does not say why"
            raise ModelError(f"llama.cpp cannot make a context for prompts: {reason}.")
        self._memory = llama.llama_get_memory(self._context)
        self._buffer = BatchBuffer(prefill.max_part)
        self._states = HostBuffers()
        self._adapter = AppliedAdapter(self._context, model.adapters)

    def compute(self, pieces: list[Piece]) -> None:
        for _, stream, start, _ in pieces:
            if start == 0:
                llama.llama_memory_seq_rm(self._memory, stream, -1, -1)
        self._buffer.fill_pieces(pieces)
        self._adapter.use(pieces[0].prefill.sequence.adapter)
        code = llama.llama_decode(self._context, self._buffer.struct)
        if code != 0:
            raise DecodeError(f"llama_decode returned {code}.")
        llama.llama_synchronize(self._context)

    def state(self, stream: int) -> HostState:
        """Bytes for the decoding context: with its number of streams, of which the first one written has cells. The
        stream is empty afterwards."""
        size = llama.llama_state_seq_get_size(self._context, stream)
        state = self._states.take(size + COUNT_BYTES * (self._num_target_streams - 1))
        written = state.data
        if llama.llama_state_seq_get_data(self._context, _pointer(written), size, stream) != size:
            raise DecodeError("llama.cpp does not give the state of a prompt.")
        magic, seq_id, _ = HEADER.unpack(written[: HEADER.size].tobytes())
        header = HEADER.pack(magic, seq_id, self._num_target_streams)
        written[: HEADER.size] = np.frombuffer(header, np.uint8)
        written[size:] = 0
        llama.llama_memory_seq_rm(self._memory, stream, -1, -1)
        return state

    def close(self) -> None:
        llama.llama_free(self._context)
        if self._owned:
            self._owned.close()


def _pointer(array: npt.NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
