"""Whom to ask next for one request, and when; and what to tell the client when nobody is left.

* Whoever pauses least is asked first, of these who was asked least, of these the first of the route.
* So all are asked before one is asked again: that after a backoff with full jitter, and not before its Retry-After.
* A target whose breaker is open is not waited for. Where no other is left, one at its rate limit is, up to `max_wait`,
  and one that is just being probed.
* `verdict.judge` says which errors may be tried elsewhere, again, or not at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from local_gateway.config.settings import RetrySettings
from local_gateway.errors import RateLimitError, RequestError, TargetPausedError, UnavailableError
from local_gateway.routing.circuit_breaker import CircuitBreaker, Clock
from local_gateway.routing.error_policy import Retry, judge
from local_gateway.routing.router import Choice

TELLING: dict[Retry, int] = {"elsewhere": 0, "anywhere": 1, "never": 2}  # which error says most to the client
AWAITED = ("rate_limited", "half_open")  # states that end soon


class Step(NamedTuple):
    """Ask this choice after `delay` seconds."""

    choice: Choice
    delay: float


@dataclass(slots=True)
class Candidate:
    """A choice, and what came of it so far. Times are of the clock."""

    choice: Choice
    backoff: float  # the most that `jitter` may be the next time
    jitter: float  # seconds added to every wait, so that not all who wait come at once
    not_before: float = -math.inf  # its last failure, or what Retry-After said then
    num_failures: int = 0
    is_out: bool = False  # it need not be asked again for this request

    @property
    def breaker(self) -> CircuitBreaker:
        return self.choice.target.breaker

    def pause(self, now: float) -> float:
        """Seconds until the target lets itself be asked; 0 if it does now."""
        return max(0.0, self.not_before - now, self.breaker.available_in())

    def delay(self, now: float) -> float:
        """Seconds until it should be asked."""
        return max(0.0, (self.pause(now) or self.not_before - now) + self.jitter)

    def failed(self, not_before: float, rng: Random) -> None:
        self.not_before = not_before
        self.jitter = rng.uniform(0, self.backoff)
        self.backoff *= 2
        self.num_failures += 1


class RetryPlan:
    """The attempts of one request. Asks nobody and does not sleep: it says what to do, and is told what came of it."""

    def __init__(
        self, choices: Sequence[Choice], settings: RetrySettings, deadline: float, clock: Clock, rng: Random
    ) -> None:
        """`choices` best first. No attempt begins after the `deadline`."""
        self.deadline = deadline
        self.num_attempts = 0  # also those that a breaker did not let through: so waiting has an end
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._candidates = {
            choice: Candidate(choice, settings.backoff, rng.uniform(0, settings.backoff)) for choice in choices
        }
        self._error: RequestError | None = None  # the most telling, of these the last
        self._is_final = False  # no target would give another answer

    def next(self) -> Step | None:
        """What to try now. None: nothing any more, see `error`."""
        now = self._clock()
        candidates = [each for each in self._candidates.values() if self._is_worth_waiting(each, now)]
        if not candidates or self._is_final or self._is_spent:
            return None
        best = min(candidates, key=lambda each: (each.pause(now), each.num_failures))
        self.num_attempts += 1
        return Step(best.choice, best.delay(now))

    def failed(self, choice: Choice, error: RequestError) -> None:
        """What came of the last step, after the target's breaker was told."""
        verdict = judge(error)
        candidate = self._candidates[choice]
        candidate.failed(self._clock() + (error.retry_after or 0.0), self._rng)
        candidate.is_out = verdict.retry != "anywhere"
        self._is_final = verdict.retry == "never"
        self._note(error, verdict.retry)

    def error(self) -> RequestError:
        """What the client is told when there is no next step.

        It is told when it may come again, if that is known; and not to come by itself after we have tried in vain as
        often as we may, or where waiting does not help.
        """
        error = self._error or self._unavailable()
        if self._is_final:
            return error
        pause = self._shortest_pause()
        if pause:
            error.retry_after = pause
        if not pause or self._is_spent:
            error.may_retry = False
        return error

    @property
    def _is_spent(self) -> bool:
        return self.num_attempts >= self._settings.max_attempts

    def _is_worth_waiting(self, candidate: Candidate, now: float) -> bool:
        is_let_in = candidate.breaker.allows() or candidate.breaker.state in AWAITED
        is_soon = candidate.pause(now) <= self._settings.max_wait and now + candidate.delay(now) < self.deadline
        return is_let_in and is_soon and not candidate.is_out

    def _note(self, error: RequestError, retry: Retry) -> None:
        if isinstance(error, TargetPausedError):
            return  # `error` finds out why
        if self._error is None or TELLING[retry] >= TELLING[judge(self._error).retry]:
            self._error = error

    def _shortest_pause(self) -> float:
        """Seconds until the first of the targets may be asked again; 0 if that is now or waiting does not help."""
        candidates = [each for each in self._candidates.values() if not each.is_out]
        helped = [each for each in candidates if each.breaker.state != "config_error"]
        return min((each.pause(self._clock()) for each in helped), default=0.0)

    def _unavailable(self) -> RequestError:
        """Nobody was asked."""
        if all(each.breaker.state == "rate_limited" for each in self._candidates.values()):
            return RateLimitError("This model is at the rate limit of all its targets.")
        return UnavailableError("No target of this model can be asked now.")
