"""One job, from its submission to the end of its retention. Pure: knows no clock, no worker process and no HTTP."""

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Status(StrEnum):
    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        return self not in (Status.IN_QUEUE, Status.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. The execution timeout runs while a worker has the job, the time to live from the submission."""

    execution_timeout: float
    ttl: float
    low_priority: bool = False


@dataclass(slots=True, eq=False)
class Job:
    input: Any
    policy: Policy
    created: float
    is_sync: bool = False
    webhook: str = ""
    id: str = ""
    status: Status = Status.IN_QUEUE
    worker_id: str = ""  # who has it, or had it last
    started: float | None = None
    finished: float | None = None
    listed: float = 0.0  # when its worker's pings last listed it
    num_retries: int = 0
    output: Any = None
    error: Any = None
    unread: list[Any] = field(default_factory=list)  # streamed and not yet fetched

    def __post_init__(self) -> None:
        self.id = self.id or f"{'sync-' if self.is_sync else ''}{uuid.uuid4()}-e1"  # as RunPod's look [ISS]

    def start(self, worker_id: str, now: float) -> None:
        assert self.status is Status.IN_QUEUE
        self.status = Status.IN_PROGRESS
        self.worker_id = worker_id
        self.started = self.listed = now

    def finish(self, status: Status, now: float, *, output: Any = None, error: Any = None) -> None:
        assert status.is_final
        assert not self.status.is_final
        self.status = status
        self.finished = now
        self.output, self.error = output, error

    def requeue(self, *, forget_stream: bool) -> None:
        """Back into the queue, because its worker is gone."""
        assert self.status is Status.IN_PROGRESS
        self.num_retries += 1
        self._wait_again()
        if forget_stream:
            self.unread.clear()

    def retry(self) -> None:
        """Once more, because the client asks for it [DOC]: same id, old output dropped."""
        assert self.status in (Status.FAILED, Status.TIMED_OUT)
        self._wait_again()
        self.unread.clear()

    def _wait_again(self) -> None:
        self.status = Status.IN_QUEUE
        self.started = self.finished = self.output = self.error = None
        self.worker_id = ""

    def drain(self) -> list[Json]:
        """What has been streamed since the last call; there is one reader [ISS]."""
        unread, self.unread = self.unread, []
        return [{"output": value} for value in unread]

    def wire(self) -> Json:
        """What a worker gets."""
        return {"id": self.id, "input": self.input, **({"webhook": self.webhook} if self.webhook else {})}

    def view(self, now: float) -> Json:
        """What /status and the webhook tell. `delayTime` and `executionTime` are milliseconds."""
        view: Json = {"id": self.id, "status": self.status}
        if self.started is not None:
            view["delayTime"] = round(1000 * (self.started - self.created))
            view["workerId"] = self.worker_id
        if self.started is not None and self.finished is not None:
            view["executionTime"] = round(1000 * (self.finished - self.started))
        optional = {"output": self.output, "error": self.error, "retries": self.num_retries or None}
        return view | {key: value for key, value in optional.items() if value is not None}
