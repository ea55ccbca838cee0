"""A target: one place that can answer for a model."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from urllib.parse import urlsplit

from local_gateway.backends.base import Backend
from local_gateway.config.settings import LocalTarget, OpenAITarget, RunpodTarget
from local_gateway.config.settings import Target as TargetConfig
from local_gateway.errors import Outcome, RequestError, TargetPausedError, one_line
from local_gateway.routing.circuit_breaker import CircuitBreaker, Clock, State
from local_gateway.routing.diverted_answers import DivertedAnswers
from local_gateway.routing.worker_watch import WorkerWatch

log = logging.getLogger(__name__)

STATES: tuple[State, ...] = ("closed", "half_open", "rate_limited", "open", "config_error")  # from good to bad
MAX_MODELS = 1000  # whose breakers a target of a pattern remembers: clients choose the names
MAX_NAME_CHARS = 100  # of a model, in the log
LOG_LEVELS = {"open": logging.WARNING, "rate_limited": logging.WARNING, "config_error": logging.ERROR}  # else INFO


class Attempt:
    """One try to get an answer from a target. The first outcome counts; without one the breaker stays as it is."""

    def __init__(self, name: Callable[[], str], breaker: CircuitBreaker) -> None:
        self._name = name  # of target and model, for the log, which most attempts do not need
        self._breaker = breaker
        self._begun = breaker.begin()
        self._is_over = False

    def succeeded(self) -> None:
        """Its answer has begun."""
        self._end("succeeded")

    def failed(self, error: RequestError) -> None:
        self._end(error.outcome, error.retry_after)

    def release(self) -> None:
        """It ended without an outcome, as when the client left. After an outcome it does nothing."""
        self._end(None)

    def _end(self, outcome: Outcome | None, retry_after: float | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        before = self._breaker.state
        self._breaker.end(self._begun, outcome, retry_after)
        if (state := self._breaker.state) != before:
            level = LOG_LEVELS.get(state, logging.INFO)
            name = self._name()
            log.log(level, "target %s: its breaker is %s, was %s", name, state, before, extra={"target": name})


class Target:
    """One place that can answer: its settings, the way to it, and how each of its models is.

    Owns a circuit breaker for each model that it was asked for, since a target of a pattern is many models: one that
    fails or is at its rate limit says nothing about the next. Knows nothing of requests and other targets. Lives in the
    event loop.
    """

    def __init__(self, name: str, settings: TargetConfig, backend: Backend, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self.backend = backend
        self.endpoint = settings.endpoint_id if isinstance(settings, RunpodTarget) else ""  # of RunPod's
        self.worker_watch: WorkerWatch | None = None  # counts what the endpoint's workers cost
        self._clock = clock
        self._breakers: OrderedDict[str, CircuitBreaker] = OrderedDict()  # by model; the last used one last
        self.num_in_flight = 0  # attempts whose answers are not over
        self.is_idle = asyncio.Event()  # there is none
        self.is_idle.set()
        self.warm_up: asyncio.Task[None] | None = None  # wakes it while another target answers
        self.diverted = DivertedAnswers()  # of another model, because waking it would have cost more
        self.refused_fields: set[str] = set()  # body fields that the gateway adds and that this target does not know
        self.lacked_apis: set[str] = set()  # `responses`, `messages`: those that it has answered to have no path for

    def breaker(self, model: str) -> CircuitBreaker:
        """Of the model with this name of the target's own; empty: of requests that name none."""
        breaker = self._breakers.get(model)
        if breaker is None:
            breaker = self._breakers[model] = CircuitBreaker(self.settings.breaker, self._clock)
            if len(self._breakers) > MAX_MODELS:
                closed = (name for name, each in self._breakers.items() if each.state == "closed")
                del self._breakers[next(closed, model)]
        self._breakers.move_to_end(model)
        return breaker

    @property
    def states(self) -> list[State]:
        """Of all models that it was asked for, the worst last; closed if there is none."""
        return sorted((breaker.state for breaker in self._breakers.values()), key=STATES.index) or ["closed"]

    @property
    def available_in(self) -> float:
        """Seconds until each of these models may be asked."""
        return max((breaker.available_in() for breaker in self._breakers.values()), default=0.0)

    @contextmanager
    def attempt(self, model: str) -> Iterator[Attempt]:
        """Surrounds one try, to the end of its answer; `succeeded` is called when that begins.

        A RequestError that passes is its outcome; with any other end, as when the client leaves, there is none. An
        answer that outlives the `with` is surrounded by an ExitStack, which is closed with it.

        Raises:
            TargetPausedError: The model must not be asked now.
        """
        breaker = self.breaker(model)
        if not breaker.allows():
            raise TargetPausedError("This model cannot be asked now.", retry_after=breaker.available_in())
        attempt = Attempt(partial(self._name_of, model), breaker)
        self.num_in_flight += 1
        self.is_idle.clear()
        watch = self.worker_watch
        if watch is not None:
            watch.request_began()
        try:
            yield attempt
        except RequestError as error:
            attempt.failed(error)
            raise
        finally:
            attempt.release()
            if watch is not None:
                watch.request_ended()
            self.num_in_flight -= 1
            if not self.num_in_flight:
                self.is_idle.set()

    def _name_of(self, model: str) -> str:
        """For the log: the model too where the target has several."""
        return self.name if self.settings.model or not model else f"{self.name} ({one_line(model)[:MAX_NAME_CHARS]})"


def names_of(targets: Iterable[TargetConfig]) -> list[str]:
    """A name for each, unique: as configured, or from type and address. No secret is in it."""
    names: list[str] = []
    for target in targets:
        base = name = target.name or _address(target)
        numbers = count(2)
        while name in names:
            name = f"{base}-{next(numbers)}"
        names.append(name)
    return names


def _address(target: TargetConfig) -> str:
    if isinstance(target, OpenAITarget):
        host = urlsplit(target.base_url).netloc.rpartition("@")[2]
        return f"openai:{host}/{target.model}".rstrip("/")
    if isinstance(target, LocalTarget):
        return f"local:{urlsplit(target.gguf).path.rpartition('/')[2]}"
    return f"{target.type}:{target.endpoint_id}"
