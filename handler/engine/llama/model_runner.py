"""The model on its device: llama.cpp's low-level API through llama-cpp-python, whose calls release the GIL."""

import logging

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.infill import FimTokens
from handler.engine.llama.applied_adapter import AppliedAdapter
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import open_context
from handler.engine.llama.decode_run import decode_run
from handler.engine.llama.memory import ModelMemory
from handler.engine.llama.model import LlamaModel, Pointer
from handler.engine.llama.prefill_context import LlamaPrefillContext
from handler.engine.llama.prompt_scorer import PromptScorer
from handler.engine.llama.sampler_chain import SamplerChain
from handler.engine.llama.step_sampler import StepSampler
from handler.engine.llama.tokenizer import Tokenizer
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.media_run import MediaRun
from handler.engine.plan import EnginePlan
from handler.engine.prompt import MixedText
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import SampledToken
from handler.engine.speculative.verification import verify
from handler.engine.step_times import StepTimes
from handler.engine.structured.step_masks import StepMasks
from handler.engine.structured.token_mask import TokenMask
from handler.errors import CacheFullError, DecodeError, InvalidRequestError, ModelError

log = logging.getLogger(__name__)


class ModelRunner:
    """A `Runner`. Owns the model, its context, the buffer of a batch and the threads that sample.

    Context and buffer belong to the engine thread. Knows batches and slots; nothing of queues, text, stopping and
    schemas.
    """

    def __init__(self, model: LlamaModel, plan: EnginePlan) -> None:
        """Open a context; from here on, and also if that fails, the model is the runner's. Raises ModelError."""
        self._model = model
        try:
            self._context, cache = open_context(model, plan)
            self._plan, self._cache = plan, cache
        except BaseException:
            model.close()
            raise
        self.vocabulary = ModelVocabulary(llama.llama_model_get_vocab(model.pointer))
        self._tokenizer = Tokenizer(self.vocabulary)
        self.memory = ModelMemory(
            self._context, model.facts, swa_full=plan.context.swa_full, is_unified=cache.is_unified
        )
        self.num_slots = cache.num_slots
        self.num_cells: int = llama.llama_n_ctx(self._context)
        longest: int = llama.llama_n_ctx_seq(self._context)
        self.max_model_len = plan.max_model_len or min(longest, model.facts.n_ctx_train)
        self._on_gpu = plan.on_gpu
        self._n_ubatch = plan.context.n_ubatch
        self.max_whole_run = min(plan.context.n_batch, plan.context.n_ubatch)
        self._buffer = BatchBuffer(plan.context.n_batch + cache.num_slots, self.memory.position)
        self._adapter = AppliedAdapter(self._context, model.adapters)
        self._sampling = StepSampler(self._context, self.vocabulary, plan.sampler_threads)
        self._scorer = PromptScorer(self._context, self.vocabulary, plan.sampler_threads)
        self._masks = StepMasks(self.vocabulary.num_tokens, plan.sampler_threads)
        self._is_decoded = False  # whether llama_decode was called for the batch that was launched

    def warm_up(self) -> None:
        """Compute one token, so that the first request does not wait for pages and kernels."""
        self._buffer.fill_token(self.vocabulary.any_token)
        self._call_decode()
        llama.llama_synchronize(self._context)
        self.memory.clear(0)

    def open_prefill_context(self) -> LlamaPrefillContext | None:
        """A second context for prompts, as planned; None where the plan has none, the cache became a unified one, or
        llama.cpp has no room for it, which the log says: the worker then computes prompts with the answers."""
        if self._plan.prefill is None or self._cache.is_unified:
            return None
        try:
            return LlamaPrefillContext(self._model, self._plan, self._plan.prefill, self._cache)
        except ModelError as error:
            log.warning("%s Prompts are computed with the answers.", error)
            return None

    def open_expanded_prefill_context(self, model: LlamaModel) -> LlamaPrefillContext:
        """A context for prompts as `open_prefill_context` opened one, on the same model with other weights, which it
        owns. Any thread. Raises ModelError; then the model is closed."""
        assert self._plan.prefill is not None, "there is one already"
        try:
            return LlamaPrefillContext(model, self._plan, self._plan.prefill, self._cache, owns_model=True)
        except BaseException:
            model.close()
            raise

    def chat_template(self, name: str | None = None) -> str | None:
        """The template stored in the GGUF, or one of those that it has beside it, by name."""
        return self._model.chat_template(name)

    @property
    def control_texts(self) -> frozenset[str]:
        """Texts that `tokenize` reads as control tokens."""
        return frozenset(self.vocabulary.control_tokens)

    def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
        return self._tokenizer.tokenize(text, max_tokens=self.max_model_len, add_special=add_special)

    def tokenize_plain(self, text: str) -> list[int]:
        return self._tokenizer.plain(text)

    @property
    def fim_tokens(self) -> FimTokens | None:
        return self.vocabulary.fim_tokens

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

    def launch(self, batch: Batch, times: StepTimes) -> None:
        """Fill the buffer; on a GPU, call llama_decode too, which returns while the GPU computes.

        Not so for a batch of several ubatches: llama.cpp waits between them.
        """
        self._is_decoded = False
        if batch.run:
            return
        self._buffer.fill(batch)
        self._adapter.use(batch.adapter)
        times.lap("fill")
        if self._on_gpu and self._buffer.num_tokens <= self._n_ubatch:
            self._decode(batch, times)

    def collect(self, batch: Batch, times: StepTimes) -> list[list[SampledToken]]:
        if batch.run:
            self._decode_run(batch.items[0], batch.run)
            times.lap("decode")
            return []
        if not self._is_decoded:
            self._decode(batch, times)
        sampling = batch.sampling
        masks = self._masks.compute([item.sequence.matcher for item in sampling])  # needs no logits: the GPU computes
        for index, item in enumerate(sampling):
            if item.sequence.must_go_on:
                masks[index] = self._without_ends(item.sequence.params.stop_token_ids)
        chains = [_chain(item) for item in sampling]
        if any(mask is not None for mask in masks):
            times.lap("mask")
        logits = self._sampling.wait()
        times.lap("wait")
        self._score()
        sampled = self._sample(sampling, chains, masks, logits)
        times.lap("sample")
        return sampled

    def close(self) -> None:
        self._sampling.close()
        self._scorer.close()
        llama.llama_free(self._context)
        self._model.close()

    def _decode(self, batch: Batch, times: StepTimes) -> None:
        try:
            self._call_decode()
        finally:
            for slot in batch.padding_slots:
                self.memory.truncate(slot.seq_id, slot.num_tokens)
        self._is_decoded = True
        times.lap("decode")

    def _decode_run(self, item: ScheduledSequence, run: MediaRun) -> None:
        self._adapter.use(item.sequence.adapter)
        seq_id = item.slot.seq_id
        position = self.memory.position(seq_id, item.start)
        code = decode_run(self._context, run, seq_id, position, self._plan.context.n_batch)
        if code != 0:
            self.memory.truncate(seq_id, item.start)  # of several parts the first ones may be there
        _check(code)
        self.memory.note_run(seq_id, item.start + run.num_tokens, run)

    def _without_ends(self, stop_token_ids: tuple[int, ...]) -> TokenMask:
        """Forbids the tokens that end an answer."""
        ends = self.vocabulary.end_of_generation.union(stop_token_ids)
        known = [token_id for token_id in ends if token_id < self.vocabulary.num_tokens]
        return TokenMask(np.array(known, np.intp), are_allowed=False)

    def _call_decode(self) -> None:
        _check(llama.llama_decode(self._context, self._buffer.struct))

    def _score(self) -> None:
        """Score the prompts' tokens whose rows were computed."""
        for item, row in self._buffer.scored:
            num_top = item.sequence.params.num_prompt_logprobs or 0
            token_ids = item.sequence.token_ids[item.scored.start + 1 : item.scored.stop + 1]
            item.prompt_logprobs = self._scorer.score(row, token_ids, num_top)

    def _sample(
        self,
        items: list[ScheduledSequence],
        chains: list[SamplerChain],
        masks: list[TokenMask | None],
        logits: Pointer,
    ) -> list[list[SampledToken]]:
        """Each item has a row of logits, and one more for each token of its draft; one with a mask has no draft."""

        def draw(indices: list[int], rows: list[int]) -> list[SampledToken]:
            among_all = [self._buffer.rows[row] for row in rows]
            some_masks = [masks[i] for i in indices]
            return self._sampling.sample([chains[i] for i in indices], among_all, some_masks, logits)

        return verify([item.draft_token_ids for item in items], draw)


def _check(code: int) -> None:
    if code == 1:
        raise CacheFullError("No place in the KV cache for this batch.")
    if code != 0:
        raise DecodeError(f"llama_decode returned {code}.")


def _chain(item: ScheduledSequence) -> SamplerChain:
    sampler = item.sequence.sampler
    assert isinstance(sampler, SamplerChain), "made by a ModelRunner"
    return sampler
