"""The model on its device.

llama.cpp's low-level API through llama-cpp-python. Knows batches and slots; nothing about waiting, text and stopping.
Its calls release the GIL.
"""

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.batch import Batch
from handler.engine.grammar import Grammar, GrammarCompiler
from handler.engine.llama_context import (
    Pointer,
    RunnerConfig,
    has_states,
    load_model,
    open_context,
    start_llama,
    supports_gpu,
)
from handler.engine.sampler import SamplerChain
from handler.engine.sampling import StepSampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import SampledToken
from handler.engine.step_times import StepTimes
from handler.engine.token_mask import TokenMask
from handler.engine.vocabulary import ModelVocabulary
from handler.errors import CacheFullError, ConfigError, DecodeError, InvalidRequestError
from handler.timing import Stopwatch

log = logging.getLogger(__name__)

PAD = 0  # any token: nobody wants what comes of it


class ModelRunner:
    def __init__(self, path: Path, config: RunnerConfig) -> None:
        """Load the model and warm it up. Takes seconds to minutes; raises ModelError."""
        self.times = StepTimes()
        self.load_time = Stopwatch()
        start_llama()
        self.load_time.lap("devices")
        self._model = load_model(path, config)
        vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary = ModelVocabulary(vocab)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._model)
        self.load_time.lap("model")
        if config.max_model_len > self.n_ctx_train:
            raise ConfigError(
                f"MAX_MODEL_LEN has value {config.max_model_len}: this model was made for {self.n_ctx_train} at most."
            )
        self._context, size = open_context(self._model, config, self.n_ctx_train)
        self.load_time.lap("context")
        self.memory = ModelMemory(self._model, self._context, swa_full=config.swa_full, is_unified=size.is_unified)
        self._is_on_gpu = config.n_gpu_layers != 0 and supports_gpu()
        self.num_slots = size.num_slots
        self.num_cells: int = llama.llama_n_ctx(self._context)
        longest: int = llama.llama_n_ctx_seq(self._context)
        self.max_model_len = config.max_model_len or min(longest, self.n_ctx_train)
        self._n_ubatch = config.n_ubatch
        self._batch = BatchBuffer(config.n_batch + size.num_slots)
        self._sampling = StepSampler(self._context, self.vocabulary, config.sampler_threads)
        self._grammars = GrammarCompiler(self.vocabulary, config.sampler_threads)
        self._warm_up()
        self.load_time.lap("warm-up")

    def tokenize(self, text: str) -> list[int]:
        return self.vocabulary.tokenize(text)

    def chat_template(self) -> str | None:
        """The template stored in the GGUF."""
        source = llama.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", "replace") if source else None

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> SamplerChain:
        if any(not 0 <= token_id < self.vocabulary.num_tokens for token_id, _ in params.logit_bias):
            raise InvalidRequestError("logit_bias names a token that is not in the vocabulary.", param="logit_bias")
        return SamplerChain(
            params,
            prompt_token_ids,
            vocab=self.vocabulary.vocab,
            vocabulary=self.vocabulary,
            max_tokens=self.max_model_len,
        )

    def compile_grammar(self, json_schema: str) -> Grammar:
        return self._grammars.compile(json_schema)

    def run(self, batch: Batch, meanwhile: Callable[[], None] = lambda: None) -> list[SampledToken]:
        """Compute a batch; a token for each item of `batch.sampling`. Raises CacheFullError or DecodeError."""
        self._batch.fill(batch)
        self.times.lap("fill")
        returns_early = self._is_on_gpu and batch.num_tokens <= self._n_ubatch  # or llama.cpp waits between the parts
        if not returns_early:
            meanwhile()
        try:
            self._decode()
        finally:
            for slot in batch.pads:
                self.memory.truncate(slot.seq_id, slot.num_tokens)
        self.times.lap("decode")
        if returns_early:
            meanwhile()
        samplers: list[Any] = [item.sequence.sampler for item in batch.sampling]
        masks = self._masks(batch)
        llama.llama_synchronize(self._context)
        self.times.lap("wait")
        sampled = self._sampling.sample(samplers, masks)
        self.times.lap("sample")
        return sampled

    def close(self) -> None:
        self._sampling.close()
        self._grammars.close()
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def _masks(self, batch: Batch) -> list[TokenMask | None]:
        """Which tokens may come next, as far as that is bounded: known before the logits, and while a GPU computes."""
        matchers: list[Any] = [item.sequence.grammar for item in batch.sampling]
        masks = self._grammars.masks(matchers)
        if any(mask is not None for mask in masks):
            self.times.lap("mask")
        return masks

    def _decode(self) -> None:
        code = llama.llama_decode(self._context, self._batch.struct)
        if code == 1:
            raise CacheFullError("No place in the KV cache for this batch.")
        if code != 0:
            raise DecodeError(f"llama_decode returned {code}.")

    def _warm_up(self) -> None:
        """One token through the model, so that the first request does not wait for pages and kernels."""
        self._batch.fill_token(self.vocabulary.any_token)
        self._decode()
        llama.llama_synchronize(self._context)
        self.memory.clear(0)


class ModelMemory:
    """llama.cpp's memory of one context."""

    def __init__(self, model: Pointer, context: Pointer, *, swa_full: bool, is_unified: bool) -> None:
        self.is_unified = is_unified
        self._memory = llama.llama_get_memory(context)
        self._has_states = has_states(model)
        self._window: int = llama.llama_model_n_swa(model)  # 0: none
        # A state is that of all its tokens. Cells of a small window's cache that two slots share are never freed.
        self.shares_prefixes = not self._has_states and (swa_full or not self._window)

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        if self._has_states:
            return bool(llama.llama_memory_seq_pos_max(self._memory, seq_id) + 1 == num_tokens)
        # Even a full window cache loses what its window has passed: llama.cpp writes new tokens over it at will.
        first = llama.llama_memory_seq_pos_min(self._memory, seq_id) if self._window else 0
        return bool(first <= max(0, num_tokens - self._window + 1))

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        if self.is_unified:
            llama.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)
        else:  # a part of a stream cannot be copied: llama.cpp would abort
            llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            llama.llama_memory_seq_rm(self._memory, target, num_tokens, -1)

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        return bool(llama.llama_memory_seq_rm(self._memory, seq_id, num_tokens, -1))

    def clear(self, seq_id: int) -> None:
        llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)


class BatchBuffer:
    """One `llama_batch` over NumPy arrays, filled anew for each step with whole-array assignments."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq_id = np.zeros(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        self._n_seq_id = np.ones(capacity, np.int32)
        # llama_batch wants a pointer to each token's list of slots: they point into one array, for ever.
        self._seq_id_pointers = self._seq_id.ctypes.data + np.arange(capacity, dtype=np.uintp) * self._seq_id.itemsize
        self.struct = llama.llama_batch(
            token=_pointer(self._token, ctypes.c_int32),
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(self._seq_id_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, batch: Batch) -> None:
        parts = [(item.slot.seq_id, item.start, item.token_ids, item.catches_up) for item in batch.items]
        parts += [(slot.seq_id, slot.num_tokens, [PAD], False) for slot in batch.pads]
        if batch.pads:
            parts.sort(key=lambda part: part[0])
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        for seq_id, start, token_ids, wants_logits in parts:
            tokens += token_ids
            positions += range(start, start + len(token_ids))
            slots += [seq_id] * len(token_ids)
            if wants_logits:
                rows.append(len(tokens) - 1)
        end = self.struct.n_tokens = len(tokens)
        self._token[:end], self._pos[:end], self._seq_id[:end] = tokens, positions, slots
        self._logits[:end] = 0
        self._logits[rows] = 1

    def fill_token(self, token_id: int) -> None:
        """A single token at the beginning of slot 0."""
        self._token[0], self._pos[0], self._seq_id[0], self._logits[0] = token_id, 0, 0, 1
        self.struct.n_tokens = 1


def _pointer(array: npt.NDArray[Any], kind: Any) -> Pointer:
    return array.ctypes.data_as(ctypes.POINTER(kind))
