"""A whole gateway in the event loop of a test: real parts, scripted targets, records in a list."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.keys import Keyring, new_key
from local_gateway.accounts.limiter import Limiter
from local_gateway.accounts.usage import UsageRecord
from local_gateway.accounts.worker_runs import WorkerRun
from local_gateway.backends.base import Backend
from local_gateway.config.settings import GatewaySettings
from local_gateway.config.settings import Target as TargetSettings
from local_gateway.gateway import Gateway
from local_gateway.server.app import create_app
from tests.gateway.asgi_client import AsgiClient
from tests.gateway.targets.scripted import ScriptedBackend


@dataclass
class Records:
    """In place of the database."""

    kept: list[UsageRecord] = field(default_factory=list)
    num_queued: int = 0
    num_dropped: int = 0

    def record(self, record: UsageRecord) -> None:
        self.kept.append(record)

    def note_runs(self, runs: Sequence[WorkerRun]) -> None:
        """No test with it has an endpoint whose workers are counted."""
        raise NotImplementedError


class Running:
    def __init__(self, gateway: Gateway, records: Records) -> None:
        self.gateway = gateway
        self.client = AsgiClient(create_app(gateway))
        self.records = records.kept

    @property
    def record(self) -> UsageRecord:
        """The only one."""
        (record,) = self.records
        return record

    def add_key(self, **limits: Any) -> str:
        """A key's secret; from now on keys are asked for."""
        secret, key = new_key("someone", created=time.time(), **limits)
        self.gateway.auth.update(Keyring([key]))
        return secret


@asynccontextmanager
async def running(
    models: dict[str, Any] | None = None, *backends: ScriptedBackend, **more: Any
) -> AsyncIterator[Running]:
    """`models` as in gateway.yaml; the backends are those of the targets in the order in which they appear there."""
    models = models or {"llama": {"targets": [{"type": "openai", "name": "one"}]}}
    settings = GatewaySettings.model_validate({"models": models, "retry": {"backoff": 0}, **more})
    waiting = list(backends)

    def make_backend(target: TargetSettings) -> Backend:
        return waiting.pop(0)

    auth = Authenticator(require_keys=settings.server.require_keys, clock=time.time)
    auth.update(Keyring())
    records = Records()
    gateway = Gateway(settings, auth, Limiter(time.time), records, make_backend=make_backend)
    try:
        yield Running(gateway, records)
    finally:
        await gateway.aclose()
