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
from handler.engine.infill import infill_tokens
from handler.engine.prefill_lane import NoPrefillLane, PrefillLane
from handler.engine.prompt import Infill, MixedText, Prompt
from handler.engine.runner import Runner
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from handler.engine.speculative.speculation import NoSpeculation, Speculation
from handler.engine.stats import Stats
from handler.engine.step_times import Histogram
from handler.engine.structured.grammar import NUM_COMPILERS, Grammar, SchemaCompiler
from handler.errors import ContextLengthError, InvalidRequestError, QueueFullError

MAX_COMPILING = 40  # constraints that are compiled or wait for it; one more is refused


class Engine:
    """A loaded model that generates for many requests at once. `generate()` is the only way in, from any event loop.

    Owns the runner, the compiler of schemas, the pools of threads that prepare requests, and the `EngineLoop`, which
    the constructor starts. `close()` ends all of them.
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
    ) -> None:
        assert limits.max_batch_tokens > limits.max_num_seqs, "a step holds a token for each sequence, and a prompt's"
        assert not (limits.exact_grid and runner.memory.is_unified), "exact sequences need cells of their own"
        self.runner = runner
        self.limits = limits
        self._schemas = schemas
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
        return {"max_num_seqs": self.max_num_seqs, "num_cells": self.num_cells, **self.stats._asdict()}

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
        self._admission.admit(num_sequences)
        try:
            loop = asyncio.get_running_loop()
            make = partial(self._make_sequences, prompts, params, n, grammar, adapter)
            sequences = await loop.run_in_executor(self._preparation, make)
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

    async def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
        """The tokens of a text, with the model's BOS token if `add_special`. Raises InvalidRequestError."""
        self._loop.check_available()
        work = partial(self.runner.tokenize, text, add_special=add_special)
        return await asyncio.get_running_loop().run_in_executor(self._preparation, work)

    def text(self, prompt: Prompt) -> str:
        """A prompt as text; of one with a gap, what the answer follows."""
        if isinstance(prompt, Infill):
            return prompt.prefix + prompt.begun
        if isinstance(prompt, MixedText):
            return prompt.text
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self.runner.vocabulary.piece, prompt)).decode("utf-8", "replace")

    def close(self) -> None:
        """Stop after the current step; sequences that are not finished get UnavailableError. Blocks."""
        self._loop.close()
        self._compilation.shutdown()
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
        self, prompts: Iterable[Prompt], params: SamplingParams, n: int, grammar: Grammar | None, adapter: Adapter
    ) -> list[Sequence]:
        reasoning_end = self._reasoning_end(params)
        return [
            self._make_sequence(token_ids, params.of_choice(choice), grammar, reasoning_end, adapter)
            for token_ids in [self._token_ids(prompt, params.max_tokens) for prompt in prompts]
            for choice in range(n)
        ]

    def _reasoning_end(self, params: SamplingParams) -> list[int]:
        if params.parts is None or params.parts.max_reasoning_tokens is None:
            return []
        return self.runner.tokenize(params.parts.reasoning_end, add_special=False)

    def _make_sequence(
        self,
        token_ids: list[int],
        params: SamplingParams,
        grammar: Grammar | None,
        reasoning_end: list[int],
        adapter: Adapter,
    ) -> Sequence:
        return Sequence(
            token_ids,
            params,
            vocabulary=self.runner.vocabulary,
            max_num_tokens=self.runner.max_model_len,
            sampler=self.runner.make_sampler(params, token_ids),
            matcher=grammar.matcher() if grammar else None,
            reasoning_end=reasoning_end,
            adapter=adapter,
        )

    def _token_ids(self, prompt: Prompt, max_answer: int | None) -> list[int]:
        """`max_answer`: tokens of the answer, for which a prompt that may be cut leaves room, or a quarter of all."""
        if isinstance(prompt, Infill):
            a_quarter = self.runner.max_model_len // 4
            room = self.runner.max_model_len - max(1, min(max_answer or a_quarter, a_quarter))
            token_ids = infill_tokens(prompt, self.runner.fim_tokens, self.runner.tokenize_plain, room)
        else:
            token_ids = prompt if isinstance(prompt, list) else self.runner.tokenize(prompt)
        if not token_ids:
            raise InvalidRequestError("The prompt is empty.", param="prompt")
        if not 0 <= min(token_ids) <= max(token_ids) < self.runner.vocabulary.num_tokens:
            raise InvalidRequestError("The prompt has token ids that are not in the vocabulary.", param="prompt")
        if len(token_ids) >= self.runner.max_model_len:
            raise ContextLengthError(
                f"This model's maximum context length is {self.runner.max_model_len} tokens, but the prompt alone "
                f"has {len(token_ids)}. Please shorten it."
            )
        return token_ids
