"""Inputs to vectors, batched across requests: the asyncio side, and the thread that owns the context."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import numpy as np

from handler.embedding.fair_queue import FairQueue, Part, Work
from handler.embedding.runner import EmbeddingRunner, Vectors
from handler.engine.step_times import Histogram, StepTimes
from handler.errors import DecodeError, EngineError, InvalidRequestError, QueueFullError, UnavailableError

log = logging.getLogger(__name__)

MAX_REQUEST_TOKENS = 300_000  # OpenAI's limit of one request's inputs together
MAX_FAILURES = 3  # failed batches in a row that make the embedder unhealthy

T = TypeVar("T")


class EmbedderStats(NamedTuple):
    """A snapshot between two batches; counters count from the start. Immutable, so any thread may read it."""

    num_waiting: int = 0  # requests, with those of which a part is computed
    num_prompt_tokens: int = 0  # computed
    num_inputs: int = 0  # computed
    num_batches: int = 0  # calls of llama_decode
    num_finished: int = 0  # requests


class Embedder:
    """A loaded model that computes vectors for many requests at once. `embed()` is the way in, from any event loop.

    Owns the runner, a pool of threads that tokenize, and the one that computes, which the constructor starts; `close`
    ends all of them. A batch that runs is finished whatever happens; between two of them a request can be cancelled.
    """

    def __init__(self, runner: EmbeddingRunner, *, max_requests: int) -> None:
        """`max_requests`: running and waiting ones; one more is refused."""
        self.runner = runner
        self.stats = EmbedderStats()
        self.is_healthy = True
        self._max_requests = max_requests
        self._num_requests = 0
        self._queue = FairQueue(max_tokens=runner.plan.max_batch_tokens, max_seqs=runner.plan.max_batch_seqs)
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()  # None only wakes
        self._is_closing = False
        self._num_failures = 0
        self._times = StepTimes()
        self._lock = threading.Lock()  # for the count, and so that nothing is added after the last look at the inbox
        self._preparation = ThreadPoolExecutor(thread_name_prefix="tokenizer")
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    @property
    def max_num_seqs(self) -> int:
        """Requests that are worth having at once."""
        return self.runner.plan.max_batch_seqs

    def state(self) -> dict[str, int]:
        """Limits and counters, for those who watch. A copy; it may be a batch old."""
        limits = {"max_num_seqs": self.max_num_seqs, "max_model_len": self.runner.max_model_len}
        return {**limits, **self.stats._asdict()}

    def step_times(self) -> dict[str, Histogram]:
        """How long the phases of the batches took, from the start. A copy; it may be a batch old."""
        return self._times.histograms()

    def check_available(self) -> None:
        """Raises UnavailableError."""
        if not self.is_healthy or self._is_closing:
            raise UnavailableError("The embedder is not available: it is stopping or has failed.")

    async def prepare(self, work: Callable[[], T]) -> T:
        """The result of something slow, like tokenizing, in a thread."""
        self.check_available()
        return await asyncio.get_running_loop().run_in_executor(self._preparation, work)

    async def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text, with the model's own beginning and end if `add_special`. Raises InvalidRequestError."""
        return await self.prepare(lambda: self.runner.tokenize(text, add_special=add_special))

    def text(self, token_ids: list[int]) -> str:
        return b"".join(map(self.runner.vocabulary.piece, token_ids)).decode("utf-8", "replace")

    async def embed(self, inputs: Sequence[list[int]]) -> Vectors:
        """A float32 array of shape (inputs, width): pooled and not normalised. Cancelling it leaves out what waits.

        The inputs have 1 to `runner.max_model_len` tokens of the vocabulary. Raises InvalidRequestError for too many
        in all, QueueFullError, UnavailableError, and EngineError where llama.cpp fails.
        """
        num_tokens = sum(map(len, inputs))
        if num_tokens > MAX_REQUEST_TOKENS:
            raise InvalidRequestError(
                f"The inputs have {num_tokens} tokens; a request may have {MAX_REQUEST_TOKENS}. Send several requests."
            )
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Vectors] = loop.create_future()

        def settle(outcome: Vectors | Exception) -> None:
            if result.done():
                return
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

        work = Work(inputs, lambda outcome: _call(loop, settle, outcome))
        self._admit(work)
        try:
            return await result
        finally:
            work.cancel()
            with self._lock:
                self._num_requests -= 1

    def close(self) -> None:
        """Stop after the current batch; requests that are not finished get UnavailableError. Blocks."""
        with self._lock:
            self._is_closing = True
            self._inbox.put(None)
        self._thread.join()
        self._preparation.shutdown()
        self.runner.close()

    def _admit(self, work: Work) -> None:
        with self._lock:
            self.check_available()
            if self._num_requests >= self._max_requests:
                raise QueueFullError(
                    f"The worker is busy: {self._num_requests} requests are running or waiting. Try again later."
                )
            self._num_requests += 1
            self._inbox.put(work)

    # The embedder's thread

    def _run(self) -> None:
        try:
            while self.is_healthy and not self._is_closing:
                self._take()
                if batch := self._queue.next_batch():
                    self._compute(batch)
                self.stats = self.stats._replace(num_waiting=len(self._queue))
        except Exception:
            log.exception("The embedder's thread broke down.")
            self.is_healthy = False
        with self._lock:
            while not self._inbox.empty():
                self._accept(self._inbox.get())
        error = UnavailableError("The embedder has stopped.") if self._is_closing else EngineError("It has failed.")
        for work in self._queue.drain():
            work.deliver(error)

    def _take(self) -> None:
        """What is in the inbox; waits for it if there is nothing to do."""
        if not self._queue:
            self._accept(self._inbox.get())
        while not self._inbox.empty():
            self._accept(self._inbox.get())

    def _accept(self, work: Work | None) -> None:
        if work is not None:
            self._queue.add(work)

    def _compute(self, batch: list[Part]) -> None:
        self._times.begin()
        try:
            vectors = self.runner.compute([part.token_ids for part in batch])
        except DecodeError as error:
            self._fail(batch, error)
            return
        except Exception as error:
            self._fail(batch, error)
            raise
        self._times.lap("decode")
        self._num_failures = 0
        num_finished = 0
        for (work, index), vector in zip(batch, vectors, strict=True):
            work.vectors[index] = vector
            if work.is_complete:
                work.deliver(np.stack([work.vectors[number] for number in range(len(work.inputs))]))
                num_finished += 1
        self._times.lap("deliver")
        self.stats = self.stats._replace(
            num_prompt_tokens=self.stats.num_prompt_tokens + sum(len(part.token_ids) for part in batch),
            num_inputs=self.stats.num_inputs + len(batch),
            num_batches=self.stats.num_batches + 1,
            num_finished=self.stats.num_finished + num_finished,
        )

    def _fail(self, batch: list[Part], error: Exception) -> None:
        """The requests of the batch end; what else waits is tried. Several failures in a row are the end."""
        log.error("A batch of %d inputs failed: %s", len(batch), error)
        self._num_failures += 1
        self.is_healthy = self._num_failures < MAX_FAILURES
        for work in {id(part.work): part.work for part in batch}.values():
            work.cancel()
            work.deliver(EngineError("The model failed to compute this request."))


def _call(
    loop: asyncio.AbstractEventLoop, settle: Callable[["Vectors | Exception"], None], outcome: "Vectors | Exception"
) -> None:
    """Hand an outcome to the loop that waits for it; one that is closed waits for nothing."""
    try:
        loop.call_soon_threadsafe(settle, outcome)
    except RuntimeError:
        log.debug("the event loop of a request is closed")
