"""Which target to ask next for one request, and when; and what to tell the client when none is left.

* The target with the shortest pause is asked first, of these the one asked least, of these the first of the route.
* So all are asked before one is asked again: that after a backoff with full jitter, and not before its Retry-After.
* A target whose breaker is open is not waited for. Where no other is left, one at its rate limit is, up to `max_wait`,
  and one that is just being probed.
* `RequestError.retry` says which errors may be tried elsewhere, again, or not at all. A job that its worker failed is
  begun at most twice for one request, over all queues.
* Where a target says that the request does not fit into its context, the context fallbacks take the others' place.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from local_gateway.config.settings import RetrySettings
from local_gateway.errors import RateLimitError, RequestError, Retry, TargetPausedError, UnavailableError
from local_gateway.routing.circuit_breaker import CircuitBreaker, Clock
from local_gateway.routing.router import Choice
from local_gateway.routing.target import Target

TELLING: dict[Retry, int] = {"elsewhere": 0, "anywhere": 1, "once": 1, "never": 2}  # which says most to the client
AWAITED = ("rate_limited", "half_open")  # states that end soon
MAX_JOB_FAILURES = 2  # for one request: each was paid for


class Step(NamedTuple):
    """Ask this choice after `delay` seconds."""

    choice: Choice
    delay: float


@dataclass(slots=True)
class Candidate:
    """A choice, and what came of it so far. Times are of the clock."""

    choice: Choice
    backoff: float  # the most that `jitter` may be the next time
    jitter: float  # seconds added to every wait, so that not all requests come at once
    not_before: float = -math.inf  # its last failure, or what Retry-After said then
    num_failures: int = 0
    is_out: bool = False  # it need not be asked again for this request

    @property
    def breaker(self) -> CircuitBreaker:
        return self.choice.target.breaker(self.choice.model_name)

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
    """The attempts of one request. Pure: it asks no target and does not sleep.

    Belongs to one request's task. Raises nothing.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        settings: RetrySettings,
        deadline: float,
        clock: Clock,
        rng: Random,
        *,
        for_long_requests: Sequence[Choice] = (),
    ) -> None:
        """`choices` best first; `for_long_requests` likewise. No attempt begins after the `deadline`."""
        self.deadline = deadline
        self.num_attempts = 0  # also those that a breaker did not let through: so waiting has an end
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._candidates = self._candidates_of(choices)
        self._for_long_requests = for_long_requests
        self._is_long = False  # the candidates are those for long requests
        self._num_job_failures = 0
        self._error: RequestError | None = None  # the most telling, of these the last
        self._is_final = False  # no target would give another answer

    def next(self) -> Step | None:
        """What to try now. None: nothing any more, see `error`."""
        now = self._clock()
        candidates = [each for each in self._candidates.values() if self._is_worth_waiting(each, now)]
        if not candidates or self._is_final or self._is_spent:
            return None
        best = candidates[0]
        if len(candidates) > 1:
            best = min(candidates, key=lambda each: (each.pause(now), each.num_failures))
        self.num_attempts += 1
        return Step(best.choice, best.delay(now))

    def failed(self, choice: Choice, error: RequestError) -> None:
        """What came of the last step, after the target's breaker was told."""
        candidate = self._candidates[choice]
        candidate.failed(self._clock() + (error.retry_after or 0.0), self._rng)
        candidate.is_out = error.retry in ("elsewhere", "never")
        self._is_final = error.retry == "never"
        self._note(error)
        if error.retry == "once":
            self._count_job_failure()
        if error.is_too_long:
            self._use_larger_contexts()

    def keep_to(self, targets: Collection[Target]) -> None:
        """Ask no others: fallbacks are for targets that are down, and a client must not choose them by what it asks."""
        for choice, candidate in self._candidates.items():
            candidate.is_out = candidate.is_out or choice.target not in targets

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

    def _candidates_of(self, choices: Sequence[Choice]) -> dict[Choice, Candidate]:
        backoff = self._settings.backoff
        return {choice: Candidate(choice, backoff, self._rng.uniform(0, backoff)) for choice in choices}

    def _count_job_failure(self) -> None:
        self._num_job_failures += 1
        if self._num_job_failures >= MAX_JOB_FAILURES:
            for candidate in self._candidates.values():
                candidate.is_out |= candidate.choice.target.settings.type == "runpod_queue"

    def _use_larger_contexts(self) -> None:
        """Ask the context fallbacks instead, once; one of them that is too small as well is not the end of all."""
        if self._for_long_requests:
            self._candidates = self._candidates_of(self._for_long_requests)
            self._for_long_requests = ()
            self._is_long = True
        if self._is_long:
            self._is_final = all(candidate.is_out for candidate in self._candidates.values())

    @property
    def _is_spent(self) -> bool:
        return self.num_attempts >= self._settings.max_attempts

    def _is_worth_waiting(self, candidate: Candidate, now: float) -> bool:
        is_let_in = candidate.breaker.allows() or candidate.breaker.state in AWAITED
        is_soon = candidate.pause(now) <= self._settings.max_wait and now + candidate.delay(now) < self.deadline
        return is_let_in and is_soon and not candidate.is_out

    def _note(self, error: RequestError) -> None:
        if isinstance(error, TargetPausedError):
            return  # `error` finds out why
        if self._error is None or TELLING[error.retry] >= TELLING[self._error.retry]:
            self._error = error

    def _shortest_pause(self) -> float:
        """Seconds until the first of the targets may be asked again; 0 if that is now or waiting does not help."""
        candidates = [each for each in self._candidates.values() if not each.is_out]
        helped = [each for each in candidates if each.breaker.state != "config_error"]
        return min((each.pause(self._clock()) for each in helped), default=0.0)

    def _unavailable(self) -> RequestError:
        """No target was asked."""
        if all(each.breaker.state == "rate_limited" for each in self._candidates.values()):
            return RateLimitError("This model is at the rate limit of all its targets.")
        return UnavailableError("No target of this model can be asked now.")
