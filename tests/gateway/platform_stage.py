"""A gateway before an emulated RunPod endpoint with real worker processes, and beside it a target like OpenAI's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
from openai import AsyncOpenAI

from tests.contract.stage import ODD_WORKER, SETTINGS, Model, Stage, expecting_starts
from tests.gateway.gateway_process import GatewayProcess, running
from tests.gateway.targets.on_socket import FakeOpenAI
from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Settings
from tests.tiny_models import write_tiny_model

Kind = Literal["queue", "load_balancing"]

TIMEOUT = 60.0  # seconds until a story that hangs fails
SLOW = {"ODD_STEP_SECONDS": "0.02", "ODD_TRACE": "1"}  # 20 ms a token; tells of each step, and of freed slots
TIMEOUTS = {"commit": "300ms", "probe": "300ms", "keep_alive": "100ms"}
RETRY = {"max_attempts": 3, "backoff": "20ms", "max_wait": "2s"}


@dataclass(frozen=True)
class Platform:
    """`llama` is answered by the endpoint, `backed` has a stand-in, `quick` one for cold starts, `gone` an endpoint
    that does not exist and a stand-in, `lost` the same without one."""

    runpod: Stage
    gateway: GatewayProcess
    other: FakeOpenAI
    session: aiohttp.ClientSession

    def openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.gateway.api, api_key="none", max_retries=0, timeout=TIMEOUT)

    @asynccontextmanager
    async def post(self, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """A chat. Left before its end, the client hangs up."""
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": "llama", "messages": messages, "temperature": 0, "max_tokens": 5, **fields}
        async with self.session.post(f"{self.gateway.api}/chat/completions", json=body) as answer:
            try:
                yield answer
            finally:
                answer.close()

    async def ask(self, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in small letters and body."""
        async with self.post(**fields) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, headers, await answer.read()


def tiny_model(folder: Path) -> Model:
    """Speaks noise, quickly."""
    return Model(write_tiny_model(folder / "tiny.gguf", "llama", context_length=4096), folder)


@asynccontextmanager
async def platform(
    folder: Path,
    *,
    kind: Kind = "queue",
    settings: Settings = SETTINGS,
    clock: Clock | None = None,
    retry: dict[str, Any] | None = None,
    **own: Any,
) -> AsyncIterator[Platform]:
    """`own` are EndpointSettings. In the end no worker is left."""
    model = tiny_model(folder)
    command = (*ODD_WORKER, "serve") if kind == "load_balancing" else ODD_WORKER
    usual = {"requests_per_worker": 100, "idle_timeout": 10_000.0, "max_workers": 1, "restart_pause": 0.1}
    endpoint_settings = EndpointSettings(
        kind=kind, command=command, **{**usual, **own, "env": {**model.env, **SLOW, **own.get("env", {})}}
    )
    async with Emulator(settings, clock=clock) as emulator, FakeOpenAI() as other, aiohttp.ClientSession() as session:
        endpoint = emulator.add_endpoint("ep", endpoint_settings)
        config = {"models": models(emulator, kind, other), "timeouts": TIMEOUTS, "retry": {**RETRY, **(retry or {})}}
        here = Stage(emulator, endpoint, session)
        async with running(folder, config) as gateway, expecting_starts(here):
            yield Platform(here, gateway, other, session)


def models(emulator: Emulator, kind: Kind, other: FakeOpenAI) -> dict[str, Any]:
    def endpoint(name: str) -> dict[str, Any]:
        common = {"endpoint_id": name, "api_key": emulator.settings.client_key, "model": "model"}
        if kind == "queue":
            return {"type": "runpod_queue", "base_url": f"{emulator.url}/v2", **common}
        return {"type": "runpod_lb", "base_url": f"{emulator.url}/lb/{name}/v1", **common}

    return {
        "llama": {"targets": [endpoint("ep")]},
        "backed": {"targets": [endpoint("ep")], "fallbacks": ["other"]},
        "quick": {"targets": [endpoint("ep")], "cold_start": {"after": "1s", "use": "other"}},
        "gone": {"targets": [endpoint("nowhere")], "fallbacks": ["other"]},
        "lost": {"targets": [endpoint("nowhere")]},
        "other": {"targets": [{"type": "openai", "base_url": other.url, "name": "other"}]},
    }
