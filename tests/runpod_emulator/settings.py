"""Every number and every choice of the emulated platform. What is not established about RunPod is a choice here.

Tags, as in the notes this was written from: [DOC] RunPod's documentation, [SRC] its SDK's source, [ISS] an issue or
what users saw, [UNK] not established. Times are in seconds of the platform's clock, sizes in bytes.
"""

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["queue", "load_balancing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The platform."""

    worker_key: str = "worker-key"  # sent raw by workers [SRC]
    client_key: str = "client-key"  # sent as "Bearer KEY", and bare in some examples [DOC]

    # Long polls. The SDK gives up after 90 s [SRC]; how long the platform holds them is [UNK].
    take_hold: float = 20.0
    stop_hold: float = 20.0
    stream_hold: float = 10.0  # /stream and /status-sync without ?wait [ISS]
    runsync_hold: float = 90.0  # /runsync without ?wait [DOC]
    min_wait: float = 1.0  # ?wait is clipped to this range [DOC]
    max_wait: float = 300.0

    ping_interval: float = 10.0  # what workers are told, in real seconds [SRC]; the SDK knows whole seconds
    gives_to_stopping: bool = False  # a take poll open at SIGTERM may still get a job, which the SDK then loses [UNK]

    # Workers that vanish.
    ping_deadline: float = 60.0  # silent for so long, a worker counts as dead [UNK]
    lost_job_after: float | None = 30.0  # a job its worker's pings do not list for so long is lost; None: never [UNK]
    max_retries: int = 3  # of a job whose worker died or lost it; then it fails [UNK]
    forget_stream_on_retry: bool = True  # chunks of the dead worker that are not read yet are dropped [UNK]

    # Jobs.
    execution_timeout: float = 600.0  # policy.executionTimeout, 5 s to 7 days [DOC]
    ttl: float = 86_400.0  # policy.ttl, 10 s to 7 days, from submission [DOC]
    min_execution_timeout: float = 5.0
    min_ttl: float = 10.0
    max_policy: float = 7 * 86_400.0
    run_retention: float = 1800.0  # results of /run [DOC]
    runsync_retention: float = 60.0  # results of /runsync [DOC]
    late_progress_reverts: bool = False  # progress after the result makes the job IN_PROGRESS again, once seen [ISS]

    # Sizes. A result that is too large is refused with 400 [ISS].
    max_run_bytes: int = 10_000_000  # /run, payload [DOC] and result [UNK]
    max_runsync_bytes: int = 20_000_000  # /runsync, the same
    max_chunk_bytes: int = 1_000_000  # one streamed item [DOC]
    split_large_chunks: bool = False  # "larger outputs are split" [DOC]; how is [UNK], so refused with 400 by default

    # The /openai route.
    openai_wait: float = 300.0  # then 504 [UNK]
    openai_error_body: bool = True  # {"error": ...} with the 500 of a failed job; else an empty body [UNK]
    cancel_on_disconnect: bool = False  # of /openai and /runsync [UNK]

    # Limits, off by default: a test that wants them says so.
    rate_limits: bool = False

    # Webhooks [DOC].
    webhook_retries: int = 2
    webhook_pause: float = 10.0

    # Load balancing.
    no_worker_timeout: float = 120.0  # a request without a healthy worker [DOC]
    strict_affinity_timeout: float = 300.0  # "waits about 5 minutes" [DOC]
    request_timeout: float = 330.0  # 5.5 minutes [DOC]
    max_balanced_bytes: int = 30_000_000  # each way [DOC]
    health_interval: float = 0.5  # [UNK]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """An endpoint, as its owner sets it up."""

    kind: Kind = "queue"
    command: tuple[str, ...] = ()  # starts a worker; empty: workers are started by hand
    env: dict[str, str] = field(default_factory=dict)  # beside what the platform sets
    min_workers: int = 0
    max_workers: int = 3  # [DOC]
    requests_per_worker: int = 4  # the scaler's REQUEST_COUNT: ceil((queued + in progress) / this) workers [DOC]
    idle_timeout: float = 5.0  # [DOC]
    cold_start: float = 0.0  # what passes before the process is started: a machine, an image
    grace: float = 30.0  # from SIGTERM to SIGKILL [UNK]
    restart_pause: float = 1.0  # after a worker that ended by itself [UNK]
    flashboot: bool = False  # idle workers are frozen, and thawed when needed [DOC]
    health_path: str = "/ping"  # of load-balancing workers [DOC]
