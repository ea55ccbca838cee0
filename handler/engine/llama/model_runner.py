"""The model on its device.

llama.cpp's low-level API through llama-cpp-python. Knows batches and slots; nothing about waiting, text and stopping.
Its calls release the GIL.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import (
    Pointer,
    RunnerConfig,
    has_states,
    load_model,
    open_context,
    start_llama,
    supports_gpu,
)
from handler.engine.llama.sampler_chain import SamplerChain
from handler.engine.llama.step_sampler import StepSampler
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import SampledToken
from handler.engine.speculative.verification import verify
from handler.engine.step_times import StepTimes
from handler.engine.structured.grammar import Grammar, GrammarCompiler
from handler.engine.structured.token_mask import TokenMask
from handler.errors import CacheFullError, ConfigError, DecodeError, InvalidRequestError
from handler.stopwatch import Stopwatch

log = logging.getLogger(__name__)


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

    def run(self, batch: Batch, meanwhile: Callable[[], None] = lambda: None) -> list[list[SampledToken]]:
        """Compute a batch; for each item of `batch.sampling` as many tokens of its draft as were drawn, and one more.

        The rest of the draft is left in llama.cpp's memory. Raises CacheFullError or DecodeError.
        """
        self._batch.fill(batch)
        self.times.lap("fill")
        returns_early = self._is_on_gpu and batch.num_tokens <= self._n_ubatch  # or llama.cpp waits between the parts
        if not returns_early:
            meanwhile()
        try:
            self._decode()
        finally:
            for slot in batch.padding_slots:
                self.memory.truncate(slot.seq_id, slot.num_tokens)
        self.times.lap("decode")
        if returns_early:
            meanwhile()
        masks = self._masks(batch)
        llama.llama_synchronize(self._context)
        self.times.lap("wait")
        sampled = self._sample(batch.sampling, masks)
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

    def _sample(self, items: list[ScheduledSequence], masks: list[TokenMask | None]) -> list[list[SampledToken]]:
        """Each item has a row of logits, and one more for each token of its draft; who has a mask has no draft."""
        samplers: list[Any] = [item.sequence.sampler for item in items]

        def draw(numbers: list[int], rows: list[int]) -> list[SampledToken]:
            return self._sampling.sample([samplers[number] for number in numbers], rows, [masks[n] for n in numbers])

        return verify([item.draft_token_ids for item in items], draw)

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
        self.can_go_back = not self._has_states  # by the few tokens that a draft had too many
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
