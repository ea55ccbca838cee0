"""What the platform knows of one worker."""

from dataclasses import dataclass
from enum import StrEnum

from .process import WorkerProcess


class State(StrEnum):
    STARTING = "starting"  # RunPod says "initializing"
    READY = "ready"  # it has asked for a job, or its health check has said 200
    FROZEN = "frozen"
    STOPPING = "stopping"  # gets no more work
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Worker:
    id: str
    last_seen: float
    idle_since: float
    state: State = State.STARTING
    has_pinged: bool = False
    unhealthy: str = ""  # what its ping said was wrong
    process: WorkerProcess | None = None  # None while it starts, and of one started by hand
    port: int = 0  # where a load-balancing worker listens
    num_requests: int = 0  # that a load-balancing worker answers just now

    @property
    def is_present(self) -> bool:
        """Counts for the scaler."""
        return self.state in (State.STARTING, State.READY)
