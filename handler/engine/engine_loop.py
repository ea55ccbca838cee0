"""The engine thread: takes commands, then steps, as long as there is work."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from handler.engine.admission import Admission
from handler.engine.batch import Batch
from handler.engine.generation import Generation
from handler.engine.outbox import Outbox
from handler.engine.prefill_lane import NoPrefillLane, PrefillLane
from handler.engine.runner import Runner
from handler.engine.scheduler import Outputs, Scheduler
from handler.engine.sequence import FinishReason, Sequence, SequenceOutput, SequenceStatus
from handler.engine.speculative.speculation import NoSpeculation, Speculation
from handler.engine.stats import Stats
from handler.engine.step_times import StepTimes
from handler.errors import CacheFullError, DecodeError, EngineError, UnavailableError

log = logging.getLogger(__name__)

NOTHING_NEW = SequenceOutput()  # held back, or a control token: not worth waking a reader
MAX_FAILURES = 3  # failed steps in a row that make the engine unhealthy


class EngineLoop:
    """Owns the thread, and through it scheduler, cache, speculation, outbox and the runner's context.

    Other threads send commands (`add`, `abort`, `close`), which are executed between two steps, and read `stats`,
    `times` and `is_healthy`. Nothing here is bound to an event loop. If the thread breaks down, every generation gets
    EngineError; if it is closed, UnavailableError.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        speculation: Speculation | NoSpeculation,
        lane: PrefillLane | NoPrefillLane,
        admission: Admission,
    ) -> None:
        self.stats = Stats()
        self.times = StepTimes()
        self.is_healthy = True
        self._runner = runner
        self._scheduler = scheduler
        self._speculation = speculation
        self._lane = lane
        self._admission = admission
        self._outbox = Outbox()
        self._unwritten: list[tuple[Generation, Sequence]] = []  # that have tokens without text
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._generations: dict[Sequence, Generation] = {}
        self._num_failures = 0  # failed steps in a row
        self._drafts_fit = True  # in the last batch, as far as llama.cpp's memory is concerned
        self._is_closing = False
        self._lock = threading.Lock()  # so that no `add` comes after the thread has taken its last command
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # Any thread

    def start(self) -> None:
        self._lane.start(self._wake)
        self._thread.start()

    def _wake(self) -> None:
        self._inbox.put(lambda: None)

    def add(self, generation: Generation) -> None:
        """Let its sequences wait for their turn. Raises UnavailableError."""
        with self._lock:
            self.check_available()
            self._inbox.put(partial(self._add, generation))

    def abort(self, generation: Generation) -> None:
        """End those of its sequences that are not finished, without output."""
        self._inbox.put(partial(self._abort, generation))

    def check_available(self) -> None:
        """Raises UnavailableError."""
        if not self.is_healthy or self._is_closing:
            raise UnavailableError("The engine is not available: it is stopping or has failed.")

    def close(self) -> None:
        """Stop after the current step."""
        with self._lock:
            self._is_closing = True
        self._wake()
        self._thread.join()

    # The engine thread

    def _run(self) -> None:
        try:
            while self.is_healthy and not self._is_closing:
                self._take_commands()
                if self._scheduler.has_work:
                    self._step()
                else:
                    self._flush()  # what the last step brought, where its sequences were aborted since
                    self._scheduler.cache.check_integrity()
                if not self._scheduler.has_work:  # otherwise the next step takes one, while the device computes
                    self.stats = self._snapshot()
        except Exception:
            log.exception("The engine thread broke down.")
            self.is_healthy = False
        while not self._is_closing:  # what was added just before it became unhealthy gets its error too
            self._end_all()
            self._take_commands()
        self._take_commands()  # the last ones
        self._end_all()

    def _take_commands(self) -> None:
        """Execute all commands there are, having waited for one if there is nothing else to do."""
        has_work = self.is_healthy and self._scheduler.has_work
        if not has_work and not self._is_closing:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        self.times.begin()
        batch = self._scheduler.schedule()
        if not batch.items:  # all that is left is in the prefill lane, which wakes us
            self._flush()
            self.stats = self._snapshot()
            self._inbox.get()()
            return
        self.times.lap("schedule")
        try:
            if self._drafts_fit:
                self._speculation.add_drafts(batch, self._scheduler.cache)
                self.times.lap("draft")
            self._runner.launch(batch, self.times)
            self._flush()
            self.stats = self._snapshot()
            sampled = self._runner.collect(batch, self.times)
        except CacheFullError:
            outputs = self._relieve_pressure(batch)
        except DecodeError as error:
            outputs = self._fail(batch, error)
        else:
            self._num_failures, self._drafts_fit = 0, True
            self._speculation.learn(batch, sampled)
            outputs = self._scheduler.postprocess(batch, sampled)
        self._lane.end_step()
        self._queue(outputs)
        self.times.lap("postprocess")

    def _relieve_pressure(self, batch: Batch) -> Outputs:
        """Nothing is evicted or preempted for drafts: where they do not fit, the next step is scheduled without."""
        if batch.has_drafts:
            self._drafts_fit = False
            return []
        return self._scheduler.relieve_pressure()

    def _fail(self, batch: Batch, error: DecodeError) -> Outputs:
        """A batch that cannot be computed takes its sequences with it, and all of the cache."""
        self._num_failures += 1
        log.error("A step with %d tokens of %d sequences failed: %s", batch.num_tokens, len(batch.items), error)
        if self._num_failures >= MAX_FAILURES:
            log.critical("%d steps failed in a row: the engine is unhealthy.", self._num_failures)
            self.is_healthy = False
        failed = [item.sequence for item in batch.items]
        return self._scheduler.fail(failed, EngineError("The model failed to compute this request."))

    def _queue(self, outputs: Outputs) -> None:
        """Outputs leave with the next step; without one, at once."""
        for sequence, output in outputs:
            if output is None:
                self._unwritten.append((self._generations[sequence], sequence))
            elif output != NOTHING_NEW:
                self._outbox.put(self._generations[sequence], sequence, output)
            if sequence.is_finished:
                self._forget(sequence)
        if not self._scheduler.has_work:
            self._flush()

    def _flush(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for generation, sequence in unwritten:
            if (output := sequence.write()) != NOTHING_NEW:
                self._outbox.put(generation, sequence, output)
        if not self._outbox.is_empty:
            for generation in self._outbox.flush():
                self.abort(generation)
            self.times.lap("deliver")

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
        """Release all that a finished sequence holds but its slot, which the scheduler has released."""
        self.stats = self.stats.with_finished(sequence.usage)
        self._speculation.forget(sequence)
        sequence.close()
        del self._generations[sequence]
        self._admission.release(1)

    def _end_all(self) -> None:
        """End every sequence without asking the scheduler, whose state may be what broke down."""
        error = UnavailableError("The worker is stopping.") if self.is_healthy else EngineError("The engine failed.")
        ended = SequenceOutput(finish_reason=FinishReason.ERROR, error=error)
        for sequence in self._generations:
            sequence.status = SequenceStatus.FINISHED
        self._queue([(sequence, ended) for sequence in self._generations])
        self._flush()  # though the scheduler may believe that there is work

    def _snapshot(self) -> Stats:
        scheduler, cache = self._scheduler, self._scheduler.cache
        return self.stats._replace(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_cached_slots=sum(not slot.is_claimed and not slot.is_empty for slot in cache.slots),
            num_used_cells=cache.num_cells - cache.num_free_cells,
            num_preemptions=scheduler.num_preemptions,
            num_drafted_tokens=self._speculation.num_drafted_tokens,
            num_accepted_tokens=self._speculation.num_accepted_tokens,
        )
