"""A gateway among hostile requests: a target with a secret of its own, two keys, and raw connections.

When a stage is left, its log is searched for secrets and for unexpected errors.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.gateway.gateway_process import GatewayProcess, create_key, running
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Reply, usual

TARGET_KEY = "sk-target-0123456789abcdef0123456789abcdef"
WRONG_KEY = "lg-a-wrong-one-that-was-once-mistyped-0123456789"
PROMPT = "a prompt that no log may hold"
MAX_BODY_BYTES = 1_000_000
MAX_REQUESTS = 40
BODY_TIMEOUT = 1.0  # seconds
PATIENCE = 20.0  # seconds until a story that waits fails
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

CHAT = {"model": "model", "messages": [{"role": "user", "content": PROMPT}]}


class Answer(NamedTuple):
    """All that a connection gave until it was closed."""

    raw: bytes

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in STATUS.findall(self.raw)]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def code(self) -> str | None:
        """Of the error that it says it is."""
        code: str | None = json.loads(self.body)["error"]["code"]
        return code


@dataclass(frozen=True)
class Stage:
    gateway: GatewayProcess
    target: FakeOpenAI
    key: str
    limited_key: str  # may use the model `other` only

    def chat(self, **fields: Any) -> bytes:
        """A request that is answered."""
        return request({**CHAT, **fields}, key=self.key)

    async def call(self, *parts: bytes) -> Answer:
        """Send, and read until the gateway closes the connection."""
        async with self.connection() as (reader, writer), asyncio.timeout(PATIENCE):
            try:
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                return Answer(await reader.read())
            except ConnectionError:  # it was closed while we wrote
                return Answer(b"")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Left as if the client's machine was switched off."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port, limit=64_000)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def in_flight(self, number: int) -> None:
        """Returns when the gateway has so many requests."""
        async with asyncio.timeout(PATIENCE):
            while True:
                text = (await self.call(request(path="/metrics", key=self.key))).body.decode()
                lines = [line for line in text.splitlines() if "in_flight" in line and not line.startswith("#")]
                if sum(float(line.rpartition(" ")[2]) for line in lines) >= number:
                    return

    def reset(self) -> None:
        self.target.reset()
        self.target.script = odd

    async def still_answers(self) -> None:
        """Whatever a story did, the next honest request is answered."""
        self.reset()
        assert (await self.call(self.chat())).statuses == [200]
        self.reset()

    async def check_log(self) -> None:
        """After some requests that tempt it: no key, no part of one that leads to it, no prompt."""
        await self.still_answers()
        self.target.once.append(Reply.error(400, f"Bad prompt: {PROMPT}"))
        await self.call(self.chat())
        answers = [
            await self.call(self.chat(model="config")),
            await self.call(request(CHAT, key=WRONG_KEY)),
            await self.call(request(path="/metrics", key=self.key)),
        ]
        secrets = [self.key, self.limited_key, TARGET_KEY, TARGET_KEY[:14], WRONG_KEY[:20], PROMPT, "smuggled"]
        assert [answer.statuses for answer in answers] == [[502], [401], [200]]
        shown = self.gateway.log + b"".join(answer.raw for answer in answers).decode()
        assert not [secret for secret in secrets if secret in shown]
        assert "unexpected error" not in self.gateway.log
        assert "Traceback" not in self.gateway.log


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    async with FakeOpenAI(odd) as target:
        real = {"type": "openai", "base_url": target.url, "api_key": TARGET_KEY}
        models = {
            "model": {"targets": [real]},
            "other": {"targets": [real]},
            "config": {"targets": [{**real, "name": "config"}]},
            "kept": {"targets": [real], "cache": {}, "coalesce": "key"},
            "shared": {"targets": [real], "coalesce": "key"},
        }
        limits = {"max_body_bytes": MAX_BODY_BYTES, "body_timeout": BODY_TIMEOUT, "max_requests": MAX_REQUESTS}
        config = {"models": models, "server": {"require_keys": True, **limits}, "log": {"level": "DEBUG"}}
        async with running(folder, config) as gateway:
            key = await create_key(gateway, "tester", "--admin")
            limited = await create_key(gateway, "limited", "--models", "other")
            here = Stage(gateway, target, key, limited)
            yield here
            await here.check_log()


def odd(received: Received) -> Reply:
    """A target that does not accept the gateway's key says so with a part of it."""
    if b'"config"' in received.body:
        return Reply.error(401, f"Incorrect API key provided: {TARGET_KEY[:14]}****cdef.", "invalid_api_key")
    return usual(received)


def request(
    body: Any = None, *, path: str = "/v1/chat/completions", method: str = "", key: str = "", **headers: str
) -> bytes:
    """Underscores in the names of headers become hyphens. After it the connection is to be closed."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method or ('POST' if raw else 'GET')} {path} HTTP/1.1", "host: 127.0.0.1", "connection: close"]
    lines += [f"authorization: Bearer {key}"] if key else []
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"content-type": "application/json", "content-length": str(len(raw)), **named} if raw else named
    lines += [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw
