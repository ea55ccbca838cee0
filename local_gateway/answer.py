"""What a client is given: status and headers known, the body to come; and where it comes from."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from local_gateway.backends.base import Facts
from local_gateway.settings import Price
from local_gateway.sse import EVENT_STREAM

Sharing = Literal["", "miss", "hit", "shared"]  # empty: this model neither caches nor coalesces


async def _no_facts() -> Facts:
    return Facts()


@dataclass(slots=True)
class Origin:
    """Who answered, and how it came to that."""

    target: str  # its name
    price: Price = field(default_factory=Price)
    num_attempts: int = 1  # calls to targets that were needed
    is_cold: bool = False  # it waited for a worker to start
    worker_id: str = ""
    sharing: Sharing = ""  # "hit" and "shared" cost nothing
    settle: Callable[[], Awaitable[Facts]] = _no_facts  # when the body is over


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
