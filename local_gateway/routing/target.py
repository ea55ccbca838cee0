"""A target: one place that can answer for a model."""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from urllib.parse import urlsplit

from local_gateway.backends.base import Backend
from local_gateway.config.settings import LocalTarget, OpenAITarget
from local_gateway.config.settings import Target as TargetConfig
from local_gateway.errors import RequestError, TargetPausedError
from local_gateway.routing.circuit_breaker import CircuitBreaker, Clock, Outcome
from local_gateway.routing.error_policy import judge

log = logging.getLogger(__name__)

LOG_LEVELS = {"open": logging.WARNING, "rate_limited": logging.WARNING, "config_error": logging.ERROR}  # else INFO


class Attempt:
    """One try to get an answer from a target. The first verdict counts; without one the breaker stays as it is."""

    def __init__(self, name: str, breaker: CircuitBreaker) -> None:
        self._name = name
        self._breaker = breaker
        self._begun = breaker.begin()
        self._is_judged = False

    def succeeded(self) -> None:
        """Its answer has begun."""
        self._judge("succeeded")

    def failed(self, error: RequestError) -> None:
        self._judge(judge(error).outcome, error.retry_after)

    def released(self) -> None:
        """Nobody waits for it any more."""
        self._judge(None)

    def _judge(self, outcome: Outcome | None, retry_after: float | None = None) -> None:
        if self._is_judged:
            return
        self._is_judged = True
        before = self._breaker.state
        self._breaker.end(self._begun, outcome, retry_after)
        if (state := self._breaker.state) != before:
            level = LOG_LEVELS.get(state, logging.INFO)
            extra = {"target": self._name}
            log.log(level, "target %s: its breaker is %s, was %s", self._name, state, before, extra=extra)


class Target:
    """Its settings, the way to it, and how it is. Knows nothing of requests, models and other targets."""

    def __init__(self, name: str, settings: TargetConfig, backend: Backend, clock: Clock) -> None:
        self.name = name
        self.settings = settings
        self.backend = backend
        self.breaker = CircuitBreaker(settings.breaker, clock)
        self.num_in_flight = 0  # attempts whose answers are not over
        self.is_idle = asyncio.Event()  # there is none
        self.is_idle.set()
        self.warm_up: asyncio.Task[None] | None = None  # wakes it while another target answers

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Surrounds one try, to the end of its answer; `succeeded` is called when that begins.

        A RequestError that passes is its verdict; with any other end, as when the client leaves, there is none. An
        answer that outlives the `with` is surrounded by an ExitStack, whose `pop_all().close` goes along with it.

        Raises:
            TargetPausedError: It must not be asked now.
        """
        if not self.breaker.allows():
            raise TargetPausedError("This model cannot be asked now.", retry_after=self.breaker.available_in())
        attempt = Attempt(self.name, self.breaker)
        self.num_in_flight += 1
        self.is_idle.clear()
        try:
            yield attempt
        except RequestError as error:
            attempt.failed(error)
            raise
        finally:
            attempt.released()
            self.num_in_flight -= 1
            if not self.num_in_flight:
                self.is_idle.set()


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
