"""RunPod's serverless platform, as far as workers and clients can see it, in one process on this machine.

What it does is what the platform's notes say; where they say "unknown", `settings.py` has a choice. Read in this order:
`job.py` and `queue.py` (what becomes of a job), `endpoint.py` (the long polls), `worker_api.py` and `client_api.py`
(the wire), `fleet.py` (workers as processes), `bill.py` and `rest_api.py` (what they cost), `faults.py` (what goes
wrong on purpose). Not emulated: /batch, s3Config.

Imports are relative, because the tests know this package as `runpod_emulator`, and its command line as
`python -m tests.runpod_emulator`.
"""

from .clock import Clock
from .emulator import Emulator
from .endpoint import Endpoint
from .events import Event, EventLog
from .faults import Fault
from .job import Job, Json, Policy, Status
from .queue import JobQueue
from .settings import EndpointSettings, Settings
from .worker import State, Worker

__all__ = [
    "Clock",
    "Emulator",
    "Endpoint",
    "EndpointSettings",
    "Event",
    "EventLog",
    "Fault",
    "Job",
    "JobQueue",
    "Json",
    "Policy",
    "Settings",
    "State",
    "Status",
    "Worker",
]
