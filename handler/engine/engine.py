"""The engine: one thread that owns the model's context, and the border between it and asyncio.

The outside puts commands into an inbox; the thread takes them between two steps, and hands what a step brought to
each event loop with one call. Nothing here is bound to a loop but a `Generation`, which is made inside one.
"""

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from handler.engine.batch import Batch
from handler.engine.cache.kv_cache import KVCache, Memory
from handler.engine.cache.split_cache import SplitCache
from handler.engine.generation import Generation
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Outputs, Scheduler
from handler.engine.sequence import (
    FinishReason,
    SampledToken,
    Sampler,
    Sequence,
    SequenceOutput,
    SequenceStatus,
    Vocabulary,
)
from handler.engine.speculative.speculation import Speculation
from handler.engine.step_times import StepTimes
from handler.engine.structured.grammar import Grammar
from handler.errors import (
    CacheFullError,
    ContextLengthError,
    DecodeError,
    EngineError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)

log = logging.getLogger(__name__)

Prompt = str | list[int]  # text or token ids
Mail = defaultdict[asyncio.AbstractEventLoop, list[tuple[Generation, Sequence, SequenceOutput]]]

NOTHING_NEW = SequenceOutput()  # held back, or a control token: not worth waking a reader
MAX_FAILURES = 3  # failed steps in a row that make the engine unhealthy


class Runner(Protocol):
    """The model, as the engine needs it. `run` is called by the engine thread alone, the rest by any."""

    num_slots: int
    num_cells: int
    max_model_len: int  # tokens of one sequence, prompt and answer
    times: StepTimes  # written by `run` too

    @property
    def memory(self) -> Memory: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tokenize(self, text: str) -> list[int]: ...

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> Sampler: ...

    def compile_grammar(self, json_schema: str) -> Grammar:
        """Raises SchemaError."""
        ...

    def run(self, batch: Batch, meanwhile: Callable[[], None]) -> list[list[SampledToken]]:
        """Compute the batch; for each item of `batch.sampling` as much of its draft as is true, and one token more.

        Raises CacheFullError, and then nothing has happened, or DecodeError. Calls `meanwhile` when that costs least:
        while the device computes, or before, where this thread is the device.
        """
        ...

    def close(self) -> None: ...


class Stats(NamedTuple):
    """A snapshot between two steps; the counters count from the start."""

    num_running: int = 0
    num_waiting: int = 0
    num_cached_slots: int = 0
    num_used_cells: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    num_finished: int = 0  # in whatever way
    num_aborted: int = 0  # of these, because nobody waited any more
    num_preemptions: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0  # of these, because they were drawn


class Engine:
    """`generate()` is the only way in. Started by the constructor; `close()` ends the thread and frees the model."""

    def __init__(
        self, runner: Runner, limits: Limits, *, max_queue: int, speculation: Speculation | None = None
    ) -> None:
        self.runner = runner
        assert limits.max_batch_tokens > limits.max_num_seqs, "a step must hold a token for everyone and a prompt's"
        self.limits = limits
        self.max_queue = max_queue
        self.stats = Stats()
        self.is_healthy = True
        kind = KVCache if runner.memory.is_unified else SplitCache
        cache = kind(runner.memory, num_slots=runner.num_slots, num_cells=runner.num_cells)
        self._scheduler = Scheduler(cache, limits)
        self._speculation = speculation
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._generations: dict[Sequence, Generation] = {}
        self._mail: Mail = defaultdict(list)
        self._num_open = 0  # sequences accepted and not over
        self._lock = threading.Lock()  # over the count of open sequences, and between the last command and the stop
        self._makers = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")  # a slow schema holds up schemas alone
        self._num_failures = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def generate(self, prompts: list[Prompt], params: SamplingParams, n: int = 1) -> Generation:
        """Start `n` sequences for each prompt, in this order.

        Raises InvalidRequestError (of which are ContextLengthError and SchemaError), QueueFullError or
        UnavailableError; nothing has started then.
        """
        num_sequences = len(prompts) * n
        self._open(num_sequences)
        try:
            loop = asyncio.get_running_loop()
            grammar = None
            if params.json_schema is not None:
                grammar = await loop.run_in_executor(self._compiler, self._compile, params.json_schema)
            sequences = await loop.run_in_executor(self._makers, self._make_sequences, prompts, params, n, grammar)
            generation = Generation(sequences, self._request_abort)
            self._start(generation)
        except BaseException:
            self._close(num_sequences)
            raise
        return generation

    def text(self, prompt: Prompt) -> str:
        """A prompt as text."""
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self.runner.vocabulary.piece, prompt)).decode("utf-8", "replace")

    def close(self) -> None:
        """Stop after the current step; whoever still waits for a sequence gets UnavailableError."""
        with self._lock:
            self._is_stopping = True
        self._inbox.put(lambda: None)  # wakes the thread
        self._thread.join()
        self._compiler.shutdown()
        self._makers.shutdown()  # after them nobody uses the model
        if self._speculation:
            self._speculation.close()
        self.runner.close()

    # Any thread

    def _open(self, num_sequences: int) -> None:
        max_open = self.limits.max_num_seqs + self.max_queue
        if num_sequences > max_open:
            raise InvalidRequestError(f"The request asks for {num_sequences} answers; this worker takes {max_open}.")
        with self._lock:
            self._check_available()
            if self._num_open + num_sequences > max_open:
                raise QueueFullError(
                    f"The worker is busy: {self._num_open} sequences are running or waiting, and at most {max_open} "
                    "may. Try again later."
                )
            self._num_open += num_sequences

    def _close(self, num_sequences: int) -> None:
        with self._lock:
            self._num_open -= num_sequences

    def _start(self, generation: Generation) -> None:
        with self._lock:
            self._check_available()
            self._inbox.put(partial(self._add, generation))

    def _check_available(self) -> None:
        if not self.is_healthy or self._is_stopping:
            raise UnavailableError("The engine is not available: it is stopping or has failed.")

    def _compile(self, json_schema: str) -> Grammar:
        self._check_available()  # those that still wait when it stops are not worth their time
        return self.runner.compile_grammar(json_schema)

    def _make_sequences(
        self, prompts: list[Prompt], params: SamplingParams, n: int, grammar: Grammar | None
    ) -> list[Sequence]:
        return [
            self._make_sequence(token_ids, params.with_seed_offset(choice), grammar)
            for token_ids in [self._token_ids(prompt) for prompt in prompts]
            for choice in range(n)
        ]

    def _make_sequence(self, token_ids: list[int], params: SamplingParams, grammar: Grammar | None) -> Sequence:
        return Sequence(
            token_ids,
            params,
            vocabulary=self.runner.vocabulary,
            max_num_tokens=self.runner.max_model_len,
            sampler=self.runner.make_sampler(params, token_ids),
            grammar=grammar.matcher() if grammar else None,
        )

    def _token_ids(self, prompt: Prompt) -> list[int]:
        token_ids = self.runner.tokenize(prompt) if isinstance(prompt, str) else prompt
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

    def _request_abort(self, generation: Generation) -> None:
        self._inbox.put(partial(self._abort, generation))

    # The engine thread

    def _run(self) -> None:
        try:
            while self.is_healthy and not self._is_stopping:
                self._take_commands()
                self._step()
        except Exception:
            log.exception("The engine thread broke down.")
            self.is_healthy = False
        while not self._is_stopping:  # whoever came too late to be refused is told
            self._end_all()
            self._take_commands()
        self._take_commands()  # nothing is sent any more
        self._end_all()

    def _take_commands(self) -> None:
        """Run all commands there are, having waited for one if there is nothing else to do."""
        has_work = self.is_healthy and self._scheduler.has_work
        if not has_work and not self._is_stopping:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        if self._scheduler.has_work:
            times = self.runner.times
            times.begin()
            batch = self._scheduler.schedule()
            times.lap("schedule")
            outputs = self._compute(batch)
            self._deliver(outputs)
            times.lap("postprocess")
        else:
            self._send()  # those who would have had a next step were aborted
            self._scheduler.cache.check_integrity()
        self.stats = self._snapshot()

    def _compute(self, batch: Batch) -> Outputs:
        try:
            self._add_drafts(batch)
            sampled = self._run_batch(batch)
        except CacheFullError:
            return self._scheduler.relieve_pressure()
        except DecodeError as error:
            return self._give_up(batch, error)
        self._num_failures = 0
        if self._speculation:
            self._speculation.learn(batch, sampled)
        return self._scheduler.postprocess(batch, sampled)

    def _add_drafts(self, batch: Batch) -> None:
        if self._speculation:
            self._speculation.add_drafts(batch, self._scheduler.cache.num_free_cells)
            self.runner.times.lap("draft")

    def _run_batch(self, batch: Batch) -> list[list[SampledToken]]:
        """Nobody gives anything up for drafts: where they do not fit, it is done without."""
        try:
            return self.runner.run(batch, self._send)
        except CacheFullError:
            if not batch.has_drafts:
                raise
            batch.set_drafts({})
            return self.runner.run(batch, self._send)

    def _give_up(self, batch: Batch, error: DecodeError) -> Outputs:
        """A batch that cannot be computed takes its sequences with it, and what they would leave in the cache."""
        self._num_failures += 1
        log.error("A step with %d tokens of %d sequences failed: %s", batch.num_tokens, len(batch.items), error)
        if self._num_failures >= MAX_FAILURES:
            log.critical("%d steps failed in a row: the engine is unhealthy.", self._num_failures)
            self.is_healthy = False
        failed = [item.sequence for item in batch.items]
        return self._scheduler.fail(failed, EngineError("The model failed to compute this request."))

    def _deliver(self, outputs: Outputs) -> None:
        """Put outputs into the mail, which goes with the next step: waking an event loop gives the GIL away, and the
        device would wait until its thread gives it back. Without a next step it goes at once."""
        self._send()
        for sequence, output in outputs:
            generation = self._generations[sequence]
            if output != NOTHING_NEW:
                self._mail[generation.loop].append((generation, sequence, output))
            if sequence.is_finished:
                self._forget(sequence)
        if not self._scheduler.has_work:
            self._send()

    def _send(self) -> None:
        """With one call for each loop."""
        mail, self._mail = self._mail, defaultdict(list)
        for loop, letters in mail.items():
            try:
                loop.call_soon_threadsafe(_put_all, letters)
            except RuntimeError:  # the loop is closed: nobody reads
                for generation in {letter[0] for letter in letters}:
                    self._request_abort(generation)
        if mail:
            self.runner.times.lap("deliver")

    def _add(self, generation: Generation) -> None:
        for sequence in generation.sequences:
            self._generations[sequence] = generation
            self._scheduler.add(sequence)

    def _abort(self, generation: Generation) -> None:
        for sequence in generation.sequences:
            if sequence in self._generations:
                self._scheduler.abort(sequence)
                self._forget(sequence)
                self.stats = self.stats._replace(num_aborted=self.stats.num_aborted + 1)

    def _forget(self, sequence: Sequence) -> None:
        self._count(sequence)
        if self._speculation:
            self._speculation.forget(sequence)
        sequence.close()
        del self._generations[sequence]
        self._close(1)

    def _count(self, sequence: Sequence) -> None:
        """What a finished or cancelled sequence has used."""
        usage, stats = sequence.usage, self.stats
        self.stats = stats._replace(
            num_finished=stats.num_finished + 1,
            num_prompt_tokens=stats.num_prompt_tokens + usage.num_prompt_tokens,
            num_cached_tokens=stats.num_cached_tokens + usage.num_cached_tokens,
            num_completion_tokens=stats.num_completion_tokens + usage.num_completion_tokens,
        )

    def _end_all(self) -> None:
        """End every sequence without asking the scheduler, whose state may be what broke down."""
        error = UnavailableError("The worker is stopping.") if self.is_healthy else EngineError("The engine failed.")
        for sequence in self._generations:
            sequence.status = SequenceStatus.FINISHED
        ended = SequenceOutput(finish_reason=FinishReason.ERROR, error=error)
        self._deliver([(sequence, ended) for sequence in self._generations])
        self._send()  # though the scheduler may believe that there is work

    def _snapshot(self) -> Stats:
        scheduler, cache, speculation = self._scheduler, self._scheduler.cache, self._speculation
        return self.stats._replace(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_cached_slots=sum(not slot.is_claimed and not slot.is_empty for slot in cache.slots),
            num_used_cells=cache.num_cells - cache.num_free_cells,
            num_preemptions=scheduler.num_preemptions,
            num_drafted_tokens=speculation.num_drafted_tokens if speculation else 0,
            num_accepted_tokens=speculation.num_accepted_tokens if speculation else 0,
        )


def _put_all(letters: list[tuple[Generation, Sequence, SequenceOutput]]) -> None:
    for generation, sequence, output in letters:
        generation.put(sequence, output)
