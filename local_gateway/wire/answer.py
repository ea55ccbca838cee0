"""What a client is given: status and headers known, the body to come; and which target it comes from."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from local_gateway.config.settings import Price
from local_gateway.wire.call_ledger import CallTally, ExecutionStats
from local_gateway.wire.sse import EVENT_STREAM

Sharing = Literal["", "miss", "hit", "shared"]  # empty: this model neither caches nor coalesces


class AnswerBody(Protocol):
    """The bytes of one answer as they come, and the hold on what produces them."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself: the body is read once."""
        ...

    async def __anext__(self) -> bytes:
        """Raises TargetError if the answer breaks off."""
        ...

    async def aclose(self) -> None:
        """Close it, read to its end or not; the target stops working if no other request reads it. May be repeated."""
        ...

    async def execution_stats(self) -> ExecutionStats:
        """What the target tells of its work, once the body is closed. Never raises; takes a few seconds at most."""
        ...


@dataclass(slots=True)
class Origin:
    """Which target answered, and what it took."""

    target: str  # its name
    price: Price = field(default_factory=Price)
    endpoint: str = ""  # of RunPod's, whose workers made it
    num_attempts: int = 1  # calls to targets that were needed
    is_cold: bool = False  # it waited for a worker to start
    call: CallTally = field(default_factory=CallTally)
    sharing: Sharing = ""  # final when the answer is closed; "hit" and "shared" cost nothing
    on_charged: Callable[[float], None] | None = None  # is told the cost when the answer is over, if it has one


@dataclass(slots=True)
class Answer:
    """An answer that has begun. Its receiver calls `aclose`, whatever happens.

    The body of an event stream comes in whole events, one or more at a time, its first content first of all.
    """

    status: int
    headers: dict[str, str]  # lower-case names; with content-type, without anything about the connection
    body: AnswerBody
    origin: Origin

    @property
    def is_events(self) -> bool:
        return self.headers.get("content-type", "").startswith(EVENT_STREAM)

    async def aclose(self) -> None:
        await self.body.aclose()

    async def execution_stats(self) -> ExecutionStats:
        """See AnswerBody."""
        return await self.body.execution_stats()
