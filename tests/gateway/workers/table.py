"""What an OpenAI client sees of each kind of worker: `python -m tests.gateway.workers.table` prints it as Markdown.

A gateway, the emulated platform, and a process for each worker, with RunPod's real SDK in it.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx2
from openai import APIError, APIStatusError, AsyncOpenAI

from local_gateway.accounts.auth import Authenticator
from local_gateway.accounts.keys import Keyring
from local_gateway.accounts.limiter import Limiter
from local_gateway.config.settings import GatewaySettings
from local_gateway.gateway import Gateway, distinct
from local_gateway.server.app import create_app
from tests.gateway.running_gateway import Records
from tests.runpod_emulator import Emulator, EndpointSettings, Settings

ROOT = Path(__file__).parents[3]
KINDS = ("ours", "vllm_old", "vllm_new", "sglang", "ollama", "tgi", "function")
CASES = ("whole", "stream", "client_error", "worker_error", "startup_error", "nothing")
TIMEOUT = 60.0  # seconds until a worker that hangs fails
SETTINGS = Settings(take_hold=2, stop_hold=2, ping_interval=1)


class Sighting(NamedTuple):
    """What came of one request."""

    status: int
    text: str  # of the answer, or the error's message
    num_jobs: int
    breaker: str
    total_tokens: int = 0


@dataclass
class Scene:
    """One kind of worker behind one gateway."""

    gateway: Gateway
    emulator: Emulator
    client: AsyncOpenAI

    async def ask(self, case: str, *, is_stream: bool = False) -> Sighting:
        """A chat whose answer is `case`; "whole" and "stream" are the plain answer.

        Each is asked once, as a model of its own, with a circuit breaker of its own.
        """
        user = case if case not in ("whole", "stream") else "answer"
        model = f"{case}-streamed" if is_stream else case
        status, text, tokens = await self._chat(model, user, is_stream=is_stream or case == "stream")
        jobs = self.emulator.endpoints["ep"].queue.jobs.values()
        num_jobs = sum(job.input["openai_input"]["model"] == model for job in jobs)
        (target,) = distinct(self.gateway.active.targets)
        return Sighting(status, text, num_jobs, target.breaker(model).state, tokens)

    async def _chat(self, model: str, user: str, *, is_stream: bool) -> tuple[int, str, int]:
        """Status, text or message, tokens."""
        chats = self.client.chat.completions
        try:
            if not is_stream:
                answer = await chats.create(model=model, user=user, messages=[{"role": "user", "content": "hi"}])
                return 200, answer.choices[0].message.content or "", answer.usage.total_tokens if answer.usage else 0
            texts, tokens = [], 0
            async for chunk in await chats.create(
                model=model,
                user=user,
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
            ):
                texts += [choice.delta.content or "" for choice in chunk.choices]
                tokens = chunk.usage.total_tokens if chunk.usage else tokens
            return 200, "".join(texts), tokens
        except APIStatusError as error:
            return error.status_code, _message(error), 0
        except APIError as error:  # an error event
            return 200, _message(error), 0


def _message(error: APIError) -> str:
    return str(error.body.get("message")) if isinstance(error.body, dict) else error.message


@asynccontextmanager
async def scene(kind: str) -> AsyncIterator[Scene]:
    """In the end nothing is left running."""
    command = (sys.executable, "-m", f"tests.gateway.workers.{kind}")
    endpoint = EndpointSettings(command=command, env={"PYTHONPATH": str(ROOT)}, max_workers=1, idle_timeout=1000)
    async with Emulator(SETTINGS) as emulator, asyncio.timeout(TIMEOUT):
        emulator.add_endpoint("ep", endpoint)
        target = {
            "type": "runpod_queue",
            "endpoint_id": "ep",
            "api_key": emulator.settings.client_key,
            "base_url": f"{emulator.url}/v2",
        }
        settings = GatewaySettings.model_validate(
            {"models": {"*": {"targets": [target]}}, "retry": {"backoff": 0.01}, "timeouts": {"commit": TIMEOUT}}
        )
        auth = Authenticator(require_keys=False, clock=time.time)
        auth.update(Keyring())
        gateway = Gateway(settings, auth, Limiter(time.time), Records())
        transport = httpx2.ASGITransport(app=create_app(gateway))
        http = httpx2.AsyncClient(transport=transport, timeout=TIMEOUT)
        client = AsyncOpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=http)
        try:
            yield Scene(gateway, emulator, client)
        finally:
            await client.close()
            await gateway.aclose()


async def main() -> None:
    write = sys.stdout.write
    write("| worker | asked | status | the client sees | jobs | breaker |\n|---|---|---|---|---|---|\n")
    for kind in KINDS:
        async with scene(kind) as here:
            for case, seen in zip(CASES, await asyncio.gather(*map(here.ask, CASES)), strict=True):
                write(f"| {kind} | {case} | {seen.status} | {seen.text} | {seen.num_jobs} | {seen.breaker} |\n")


if __name__ == "__main__":
    asyncio.run(main())
