"""The requests that run at this moment, for people who look: what each waits for, its tokens and cost, and a way to
cancel it. Belongs to the event loop; holds no prompt, no answer and no key.

The exchange begins an entry and ends it. Between the two the code that asks targets reports through the context
variable, which tasks inherit, so that routing needs no argument for it.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.pricing import cost_of
from local_gateway.accounts.usage import Usage, UsageRecord
from local_gateway.config.settings import Price

NUM_RECENT = 50  # requests that have ended and are still shown
FREE = Price()

State = Literal["waiting", "cold", "streaming"]


class LiveView(NamedTuple):
    """A request as it is now. Times are seconds from its arrival, but for `waited`: since this target was asked."""

    id: str
    key_id: str
    key_name: str
    model: str
    target: str  # that is being asked, or answers; empty: none yet
    state: State
    age: float
    waited: float
    num_tokens: int
    tokens_per_second: float | None  # None: too few to say
    cost: float


class LiveRequest:
    """One entry. `leave` ends the request as a client does that hangs up."""

    def __init__(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        *,
        usage: Callable[[], Usage],
        leave: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.id = request_id
        self.key_id = principal.id
        self.is_cancelled = False
        self._key_name = principal.name
        self._model = model
        self._usage = usage
        self._leave = leave
        self._clock = clock
        self._began = self._asked = clock()
        self._first_content: float | None = None
        self._target = ""
        self._is_cold = False
        self._price = FREE

    def asking(self, target: str) -> None:
        """A target is asked; another one than before, if that did not answer."""
        self._target, self._asked, self._is_cold = target, self._clock(), False

    def found_cold(self, target: str) -> None:
        """The target has no worker that is ready: one is starting."""
        self._is_cold = self._is_cold or target == self._target

    def answering(self, target: str, price: Price) -> None:
        """The first content is there."""
        self._target, self._price, self._first_content = target, price, self._clock()

    def cancel(self) -> None:
        """The request is asked to end, at its target too. May be repeated."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self._leave()

    def view(self) -> LiveView:
        now = self._clock()
        usage = self._usage()
        writing = 0.0 if self._first_content is None else now - self._first_content
        is_measurable = writing > 0.2 and usage.num_completion_tokens > 1
        return LiveView(
            id=self.id,
            key_id=self.key_id,
            key_name=self._key_name,
            model=self._model,
            target=self._target,
            state=self._state,
            age=now - self._began,
            waited=now - self._asked,
            num_tokens=usage.num_completion_tokens,
            tokens_per_second=usage.num_completion_tokens / writing if is_measurable else None,
            cost=cost_of(usage, self._price, now - self._began) if self._first_content is not None else 0.0,
        )

    @property
    def _state(self) -> State:
        if self._first_content is not None:
            return "streaming"
        return "cold" if self._is_cold else "waiting"


@dataclass(slots=True)
class ColdStarts:
    """Waits of one target for a worker, since this process began."""

    number: int = 0
    seconds: float = 0.0  # of all together

    @property
    def mean(self) -> float | None:
        """Seconds; None: there was none."""
        return self.seconds / self.number if self.number else None


class LiveRequests:
    """All entries of one gateway, those that have just ended, and what cold starts took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, LiveRequest] = {}
        self.recent: deque[UsageRecord] = deque(maxlen=NUM_RECENT)
        self.cold_starts: dict[str, ColdStarts] = {}

    def begin(
        self,
        request_id: str,
        principal: Principal,
        model: str,
        usage: Callable[[], Usage],
        leave: Callable[[], None],
    ) -> LiveRequest:
        """A request that was admitted; `ended` with its record is called whatever happens."""
        live = self._running[request_id] = LiveRequest(
            request_id, principal, model, usage=usage, leave=leave, clock=self._clock
        )
        _current.set(live)
        return live

    def ended(self, record: UsageRecord) -> None:
        self._running.pop(record.request_id, None)
        self.recent.appendleft(record)
        if record.is_cold and record.first_token_seconds is not None:
            known = self.cold_starts.setdefault(record.target, ColdStarts())
            known.number += 1
            known.seconds += record.first_token_seconds

    def find(self, request_id: str) -> LiveRequest | None:
        return self._running.get(request_id)

    def __iter__(self) -> Iterator[LiveRequest]:
        """The oldest first."""
        return iter(list(self._running.values()))


_current: ContextVar[LiveRequest | None] = ContextVar("live_request", default=None)


def asking(target: str) -> None:
    """The request of this context goes to a target."""
    if (live := _current.get()) is not None:
        live.asking(target)


def found_cold(target: str) -> None:
    """The request of this context waits for a worker of this target to start."""
    if (live := _current.get()) is not None:
        live.found_cold(target)
