"""What a client is given: status and headers known, the body to come; and where it comes from."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from local_gateway.config.settings import Price
from local_gateway.wire.sse import EVENT_STREAM

Sharing = Literal["", "miss", "hit", "shared"]  # empty: this model neither caches nor coalesces


class ExecutionStats(NamedTuple):
    """What a target tells about an answer that is over. None: it does not say."""

    execution_seconds: float | None = None  # for which its GPU is paid
    queue_seconds: float | None = None  # from the request to its start


async def _no_stats() -> ExecutionStats:
    return ExecutionStats()


@dataclass(slots=True)
class Origin:
    """Who answered, and how it came to that."""

    target: str  # its name
    price: Price = field(default_factory=Price)
    num_attempts: int = 1  # calls to targets that were needed
    is_cold: bool = False  # it waited for a worker to start
    worker_id: str = ""
    sharing: Sharing = ""  # "hit" and "shared" cost nothing
    settle: Callable[[], Awaitable[ExecutionStats]] = _no_stats  # when the body is over


@dataclass(slots=True)
class Answer:
    """An answer that has begun. Whoever got it calls `aclose`, whatever happens.

    The body of an event stream comes in whole events, one or more at a time, its first content first of all.
    """

    status: int
    headers: dict[str, str]  # lower-case names; with content-type, without anything about the connection
    body: AsyncIterator[bytes]  # raises TargetError if it breaks off
    origin: Origin
    aclose: Callable[[], Awaitable[None]]  # lets go of it; the target stops working if nobody else listens

    @property
    def is_events(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)
