"""What every type of target has in common: a call goes in, status and headers come out, then bytes.

A backend knows one target and its wire. It knows nothing of clients, keys, other targets, retries and money.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from local_gateway.config.settings import TargetSettings
from local_gateway.wire.call_ledger import CallTally, ExecutionStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, as it is to be sent to one target."""

    path: str  # of the OpenAI API without /v1: "/chat/completions"
    method: str = "POST"
    query: str = ""  # as it came, without "?"
    body: bytes = b""  # the target's name of the model is in it
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)  # those of the client that may go on
    is_stream: bool = False
    request_id: str = ""
    conversation: str = ""  # equal for all turns of a conversation; empty if it has none
    tally: CallTally = field(default_factory=CallTally, compare=False)  # the backend tells it when the call is sent


class Health(NamedTuple):
    """How a target is. Counts are None where it has no such thing."""

    is_ok: bool  # it can be reached and accepts our key
    detail: str  # for people: "2 workers running, 1 job in the queue"
    num_ready_workers: int | None = None  # running or idle: a request would not wait for a start
    num_starting_workers: int | None = None
    num_queued: int | None = None


class Upstream(Protocol):
    """An answer that has begun. Its receiver calls `aclose`, whatever happens."""

    status: int
    headers: Mapping[str, str]  # lower-case names; only what a client may see

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body as it comes, once. Raises TargetError if it breaks off."""
        ...

    async def aclose(self) -> None:
        """Close it, without waiting. If its end was not reached, the target is told to stop. May be repeated."""
        ...

    async def execution_stats(self) -> ExecutionStats:
        """What is known when it is over. May ask the target; never raises; takes a few seconds at most."""
        ...


def configured_headers(settings: TargetSettings) -> dict[str, str]:
    """`headers` of a target's settings, with names in lower case. They go into every request, last of all."""
    return {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}


class Backend(Protocol):
    async def open(self, call: Call) -> Upstream:
        """Send the call; return when status and headers are known, whatever the status.

        Raises TargetError if there is none. A cancelled `open` leaves nothing running at the target.
        """
        ...

    async def health(self) -> Health:
        """Ask the target how it is. Never raises; takes a few seconds at most."""
        ...

    async def aclose(self) -> None:
        """End what belongs to the backend: connections, child processes."""
        ...
