"""RunPod's side of the SDK's `handle_job`."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from runpod.serverless.modules import rp_job

from handler.api.routes import Routes
from handler.job import make_handler
from handler.job_run import Job, Output
from tests.engine.fakes import TIMEOUT
from tests.fake_worker import Json
from tests.waiting import eventually


class FakePlatform:
    """Takes what the real SDK posts for a job, as slowly as it likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.posts: list[Any] = []  # outputs of a stream, as posted
        self.result: Json | None = None
        self._generators: list[object] = []  # as in the SDK, nothing closes one that was cancelled while it posted
        self._answer = asyncio.Event()
        self._answer.set()
        monkeypatch.setattr(rp_job, "stream_result", self._stream_result)
        monkeypatch.setattr(rp_job, "send_result", self._send_result)

    async def run(self, api: Routes, job_input: object) -> Json:
        """What the SDK sends when the job is done."""
        await self.start(api, job_input)
        assert self.result is not None
        return self.result

    def start(self, api: Routes, job_input: object) -> asyncio.Task[object]:
        handler = make_handler(api)

        async def handle(job: Job) -> AsyncIterator[Output]:
            generator = handler(job)
            self._generators.append(generator)
            async for output in generator:
                yield output

        config = {"handler": handle, "return_aggregate_stream": True}
        return asyncio.create_task(rp_job.handle_job(None, config, {"id": "1", "input": job_input}))

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Posts are not answered meanwhile."""
        self._answer.clear()
        yield
        self._answer.set()

    async def gets_a_post(self, seconds: float = TIMEOUT) -> None:
        await eventually(lambda: bool(self.posts), seconds)

    async def _stream_result(self, _session: object, data: Json, _job: object) -> None:
        self.posts.append(json.loads(json.dumps(data))["output"])
        await self._answer.wait()

    async def _send_result(self, _session: object, data: Json, _job: object, is_stream: bool) -> None:
        assert is_stream
        self.result = json.loads(json.dumps(data))
