"""When a model of a target is left alone, and when it is asked again.

              failures in a row             the pause is over
    closed ─────────────────────▶ open ───────────────────────▶ half_open
      ▲ ▲                          ▲                             │  │  ▲
      │ │                          └───── the probe failed ──────┘  │  │
      │ └──────────────────────── the probe succeeded ──────────────┘  │
      │                                                                │
      └─ the pause is over ─ rate_limited      config_error ─ 60 s are over

From closed and half_open, a 429 leads to rate_limited, until its Retry-After, and a refused key to config_error. Half
open, one attempt at a time is let through: the probe. Pauses grow from one to the next; only a success makes them short
again, and forgets the failures.

What an attempt finds out is old news if a pause has begun since it did: fifty calls that fail together open the breaker
once, and none of them ends or lengthens the pause.
"""

from collections.abc import Callable
from typing import Literal

from local_gateway.config.settings import BreakerSettings
from local_gateway.errors import Outcome

Clock = Callable[[], float]  # seconds, never going back
Pause = Literal["open", "rate_limited", "config_error"]
State = Literal["closed", "half_open"] | Pause

AFTER: dict[Pause, State] = {"open": "half_open", "config_error": "half_open", "rate_limited": "closed"}

CONFIG_ERROR_PAUSE = 60.0  # seconds
FIRST_LIMIT_PAUSE = 1.0  # where 429 comes without Retry-After; doubled as long as it goes on
MAX_LIMIT_PAUSE = 60.0
MAX_RETRY_AFTER = 3600.0  # a target that asks for more is tried every hour
PROBE_GUESS = 1.0  # how long a probe takes, for requests that wait for its end


class CircuitBreaker:
    """The state of one model at one target. Knows neither requests nor errors, only how attempts ended.

    Each `begin` is followed by one `end`, whatever happens: else it would wait for a lost probe for ever.
    `Target.attempt` sees to that. Lives in the event loop; times are seconds of `clock`.
    """

    def __init__(self, settings: BreakerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pause: Pause | None = None  # the last one, perhaps over
        self._until = 0.0  # when it is over
        self._num_pauses = 0
        self._is_probing = False
        self._close()

    @property
    def state(self) -> State:
        if self._pause is None:
            return "closed"
        return self._pause if self._clock() < self._until else AFTER[self._pause]

    def allows(self) -> bool:
        """Whether an attempt may begin now."""
        state = self.state
        return state == "closed" or (state == "half_open" and not self._is_probing)

    def available_in(self) -> float:
        """Seconds until an attempt may begin: 0 if it may now, a guess while a probe is on its way."""
        if self.allows():
            return 0.0
        return PROBE_GUESS if self.state == "half_open" else max(0.0, self._until - self._clock())

    def begin(self) -> int:
        """An attempt begins, which must be allowed. Returns what `end` wants to know of it."""
        assert self.allows()
        self._is_probing = self.state == "half_open"
        return self._num_pauses

    def end(self, begun: int, outcome: Outcome | None, retry_after: float | None = None) -> None:
        """An attempt is over. None: nothing was learned about the target, as when the client left."""
        if begun != self._num_pauses:
            return
        was_probe, self._is_probing = self._is_probing, False
        match outcome:
            case "succeeded":
                self._close()
            case "failed":
                self._fail(was_probe)
            case "rate_limited":
                self._limit(retry_after)
            case "refused_key":
                self._start("config_error", CONFIG_ERROR_PAUSE)

    def _close(self) -> None:
        self._pause = None
        self._num_failures = 0  # in a row
        self._next_open = min(self._settings.open_for, self._settings.max_open_for)
        self._next_limit = FIRST_LIMIT_PAUSE

    def _fail(self, was_probe: bool) -> None:
        self._num_failures += 1
        if was_probe or self._num_failures >= self._settings.failures:
            self._start("open", self._next_open)
            self._next_open = min(2 * self._next_open, self._settings.max_open_for)

    def _limit(self, retry_after: float | None) -> None:
        if retry_after:
            self._start("rate_limited", min(retry_after, MAX_RETRY_AFTER))
        else:
            self._start("rate_limited", self._next_limit)
            self._next_limit = min(2 * self._next_limit, MAX_LIMIT_PAUSE)

    def _start(self, pause: Pause, seconds: float) -> None:
        self._pause = pause
        self._until = self._clock() + seconds
        self._num_pauses += 1
