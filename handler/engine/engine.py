"""The asyncio side of the engine: from prompts to a `Generation`."""

import asyncio
from collections.abc import Iterable
from collections.abc import Sequence as List
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from handler.engine.adapter_turns import Adapter
from handler.engine.admission import Admission
from handler.engine.cache.kv_cache import create_cache
from handler.engine.constraint import Constraint
from handler.engine.engine_loop import EngineLoop
from handler.engine.generation import Generation
from handler.engine.media_encoder import Media, MediaEncoder
from handler.engine.prefill_lane import NoPrefillLane, PrefillLane
from handler.engine.prompt import Infill, MediaPrompt, MixedText, Prompt
from handler.engine.prompt_reader import PromptReader, PromptTokens
from handler.engine.runner import Runner
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from handler.engine.speculative.speculation import NoSpeculation, Speculation
from handler.engine.stats import Stats
from handler.engine.step_times import Histogram
from handler.engine.structured.grammar import NUM_COMPILERS, Grammar, SchemaCompiler
from handler.errors import InvalidRequestError, QueueFullError

MAX_COMPILING = 40  # constraints that are compiled or wait for it; one more is refused


class Engine:
    """A loaded model that generates for many requests at once. `generate()` is the only way in, from any event loop.

    Owns the runner, the compiler of schemas, the encoder of media if the model sees, the pools of threads that prepare
    requests, and the `EngineLoop`, which the constructor starts. `close()` ends all of them.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        *,
        max_queue: int,
        schemas: SchemaCompiler,
        speculation: Speculation | NoSpeculation | None = None,
        lane: PrefillLane | NoPrefillLane | None = None,
        encoder: MediaEncoder | None = None,
    ) -> None:
        assert limits.max_batch_tokens > limits.max_num_seqs, "a step holds a token for each sequence, and a prompt's"
        assert not (limits.exact_grid and runner.memory.is_unified), "exact sequences need cells of their own"
        self.runner = runner
        self.limits = limits
        self._schemas = schemas
        self._encoder = encoder
        self._reader = PromptReader(runner)
        cache = create_cache(
            runner.memory, num_slots=runner.num_slots, num_cells=runner.num_cells, max_idle=limits.max_idle
        )
        self._admission = Admission(limits.max_num_seqs + max_queue)
        self._speculation = speculation or NoSpeculation()
        self._lane = lane or NoPrefillLane()
        scheduler = Scheduler(cache, limits, self._lane)
        self._loop = EngineLoop(runner, scheduler, self._speculation, self._lane, self._admission)
        self._preparation = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        self._compilation = ThreadPoolExecutor(NUM_COMPILERS, thread_name_prefix="grammar")
        self._num_compiling = 0  # of the event loop's thread
        self._loop.start()

    @property
    def is_healthy(self) -> bool:
        return self._loop.is_healthy

    @property
    def sees(self) -> bool:
        """Whether its prompts may have images."""
        return self._encoder is not None and self._encoder.sees

    @property
    def hears(self) -> bool:
        """Whether they may have sounds."""
        return self._encoder is not None and self._encoder.hears

    @property
    def stats(self) -> Stats:
        return self._loop.stats

    @property
    def num_cells(self) -> int:
        """Tokens that the KV cache has room for."""
        return self.runner.num_cells

    @property
    def max_num_seqs(self) -> int:
        """Sequences that run at once."""
        return self.limits.max_num_seqs

    def state(self) -> dict[str, int]:
        """Limits and counters, for those who watch. A copy; it may be a step old."""
        state = {"max_num_seqs": self.max_num_seqs, "num_cells": self.num_cells, **self.stats._asdict()}
        if self._encoder is not None:
            state["num_encoded_media"] = self._encoder.num_encoded
        return state

    def step_times(self) -> dict[str, Histogram]:
        """How long the phases of the steps took, from the start. A copy; it may be a step old."""
        return self._loop.times.histograms()

    async def generate(
        self, prompts: List[Prompt], params: SamplingParams, n: int = 1, *, adapter: Adapter = None
    ) -> Generation:
        """Start `n` sequences for each prompt, in this order, with one of the runner's adapters or none. Where prompts
        are scored, the first of each `n` has it.

        Raises InvalidRequestError (of which are ContextLengthError and SchemaError), QueueFullError or
        UnavailableError; nothing has started then.
        """
        num_sequences = len(prompts) * n
        self._loop.check_available()
        self._admission.check(num_sequences)  # a full queue is refused before anything is compiled
        grammar = await self._grammar(params.constraint) if params.constraint else None
        media = [await self._encode(prompt) for prompt in prompts]
        self._admission.admit(num_sequences)
        try:
            work = partial(self._make_sequences, list(zip(prompts, media, strict=True)), params, n, grammar, adapter)
            sequences = await asyncio.get_running_loop().run_in_executor(self._preparation, work)
            generation = Generation(sequences, self._loop.abort)
            self._loop.add(generation)
        except BaseException:
            self._admission.release(num_sequences)
            raise
        return generation

    async def _grammar(self, constraint: Constraint) -> Grammar:
        """Known constraints are there at once; the others wait for each other, without holding places."""
        if grammar := self._schemas.known(constraint):
            return grammar
        if self._num_compiling >= MAX_COMPILING:
            raise QueueFullError(f"The worker is busy: {MAX_COMPILING} constraints wait to be compiled. Try later.")
        self._num_compiling += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._compilation, self._compile, constraint)
        finally:
            self._num_compiling -= 1

    async def _encode(self, prompt: Prompt) -> list[Media]:
        if not isinstance(prompt, MediaPrompt):
            return []
        if self._encoder is None:
            raise InvalidRequestError("This model reads text only.", param="prompt")
        return await self._encoder.encode(prompt.media, self.runner.max_model_len)

    async def tokenize(self, text: str | MixedText | MediaPrompt, *, add_special: bool = True) -> list[int]:
        """The tokens of a text, with the model's BOS token if `add_special`; media count as their negative ids. Raises
        InvalidRequestError, and what encoding media raises."""
        self._loop.check_available()
        if isinstance(text, MediaPrompt):
            work = partial(self._reader.join, text, await self._encode(text), add_special=add_special)
            tokens = await asyncio.get_running_loop().run_in_executor(self._preparation, work)
            return tokens.token_ids
        plain = partial(self.runner.tokenize, text, add_special=add_special)
        return await asyncio.get_running_loop().run_in_executor(self._preparation, plain)

    def text(self, prompt: Prompt) -> str:
        """A prompt as text; of one with a gap, what the answer follows."""
        if isinstance(prompt, Infill):
            return prompt.prefix + prompt.begun
        if isinstance(prompt, MixedText | MediaPrompt):
            return prompt.text
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self.runner.vocabulary.piece, prompt)).decode("utf-8", "replace")

    def close(self) -> None:
        """Stop after the current step; sequences that are not finished get UnavailableError. Blocks."""
        self._loop.close()
        self._compilation.shutdown()
        if self._encoder is not None:
            self._encoder.close()
        self._preparation.shutdown()  # from here on the model is not used
        self._lane.close()
        self._speculation.close()
        self._schemas.close()
        self.runner.close()

    # In the pools' threads

    def _compile(self, constraint: Constraint) -> Grammar:
        self._loop.check_available()  # what is still queued when it closes is not worth the time
        return self._schemas.known(constraint) or self._schemas.compile(constraint)

    def _make_sequences(
        self,
        prompts: Iterable[tuple[Prompt, list[Media]]],
        params: SamplingParams,
        n: int,
        grammar: Grammar | None,
        adapter: Adapter,
    ) -> list[Sequence]:
        reasoning_end = self._reasoning_end(params)
        return [
            self._make_sequence(tokens, params.of_choice(choice), grammar, reasoning_end, adapter)
            for tokens in [self._reader.read(prompt, media, params.max_tokens) for prompt, media in prompts]
            for choice in range(n)
        ]

    def _reasoning_end(self, params: SamplingParams) -> list[int]:
        if params.parts is None or params.parts.max_reasoning_tokens is None:
            return []
        return self.runner.tokenize(params.parts.reasoning_end, add_special=False)

    def _make_sequence(
        self,
        tokens: PromptTokens,
        params: SamplingParams,
        grammar: Grammar | None,
        reasoning_end: list[int],
        adapter: Adapter,
    ) -> Sequence:
        return Sequence(
            tokens.token_ids,
            params,
            vocabulary=self.runner.vocabulary,
            max_num_tokens=self.runner.max_model_len,
            sampler=self.runner.make_sampler(params, tokens.text_ids),
            matcher=grammar.matcher() if grammar else None,
            reasoning_end=reasoning_end,
            adapter=adapter,
            runs=tokens.runs,
        )
