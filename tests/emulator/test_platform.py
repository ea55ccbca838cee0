"""The wire on both sides, with a worker played by the test."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.runpod_emulator import Clock, Emulator, EndpointSettings, Fault, Settings

TIMEOUT = 20.0
NO_WORKERS = EndpointSettings()


class Wire:
    """Both sides of an endpoint without worker processes."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.endpoint = emulator.endpoints["ep"]
        self._session = session

    async def client(self, method: str, path: str, body: Any = None, key: str = "Bearer client-key") -> tuple[int, Any]:
        return await self._call(method, path, json.dumps(body).encode(), key)

    async def worker(self, path: str, body: Any = None, worker: str = "w", key: str = "worker-key") -> tuple[int, Any]:
        """As the SDK calls: GET, or POST if there is something to say."""
        call, _, rest = path.partition("/")
        raw = None if body is None else json.dumps({"output": body}).encode()
        return await self._call("POST" if raw else "GET", f"{call}/{worker}/{rest}".rstrip("/") + "?gpu=EMU", raw, key)

    async def _call(self, method: str, path: str, raw: bytes | None, key: str) -> tuple[int, Any]:
        headers = {"Authorization": key, "Content-Type": "application/x-www-form-urlencoded"}
        url = f"{self.emulator.url}/v2/{path if path.startswith('other/') else f'ep/{path}'}"
        data = io.BytesIO(raw) if raw else None
        async with asyncio.timeout(TIMEOUT), self._session.request(method, url, data=data, headers=headers) as answer:
            text = await answer.text()
        with suppress(ValueError):
            return answer.status, json.loads(text)
        return answer.status, text

    async def balanced(self, endpoint: str, affinity: str = "") -> tuple[int, Any]:
        headers = {"Authorization": "Bearer client-key", "X-Runpod-Worker-Id": affinity}
        async with self._session.get(f"{self.emulator.url}/lb/{endpoint}/ping", headers=headers) as answer:
            return answer.status, await answer.json()

    async def run(self, **more: Any) -> str:
        status, body = await self.client("POST", "run", {"input": {"n": 1}, **more})
        assert (status, body["status"]) == (200, "IN_QUEUE")
        return str(body["id"])

    async def take(self) -> str:
        status, job = await self.worker("job-take")
        assert status == 200
        return str(job["id"])


@asynccontextmanager
async def wire(settings: Settings | None = None, *, clock: Clock | None = None) -> AsyncIterator[Wire]:
    async with Emulator(settings, clock=clock) as emulator, aiohttp.ClientSession() as session:
        emulator.add_endpoint("ep", NO_WORKERS)
        yield Wire(emulator, session)


async def test_keys() -> None:
    """Workers send theirs raw, clients with or without "Bearer"."""
    async with wire(Settings(take_hold=0.1)) as w:
        assert (await w.client("GET", "health"))[0] == 200
        assert (await w.client("GET", "health", key="client-key"))[0] == 200
        assert (await w.client("GET", "health", key="Bearer worker-key"))[0] == 401
        assert (await w.worker("job-take"))[0] == 204
        assert (await w.worker("job-take", key="Bearer worker-key"))[0] == 401


@pytest.mark.parametrize("path", ["other/health", "status/none", "stream/none"])
async def test_not_found(path: str) -> None:
    async with wire() as w:
        assert (await w.client("GET", path))[0] == 404


async def test_from_run_to_status() -> None:
    """The SDK posts JSON as a form; a stream's pieces come once; the result stays."""
    async with wire() as w:
        job_id = await w.run()
        assert await w.take() == job_id
        assert (await w.client("GET", f"status/{job_id}"))[1]["status"] == "IN_PROGRESS"
        await w.worker(f"job-stream/{job_id}", "é")
        assert await w.client("GET", f"stream/{job_id}") == (
            200, {"status": "IN_PROGRESS", "stream": [{"output": "é"}]}
        )  # fmt: skip
        await w.worker(f"job-done/{job_id}", ["é"])
        assert await w.client("POST", f"stream/{job_id}") == (200, {"status": "COMPLETED", "stream": []})
        assert (await w.client("GET", f"status/{job_id}"))[1]["output"] == ["é"]


async def test_batch_takes_what_is_there() -> None:
    """No worker waits for a batch to fill."""
    async with wire() as w:
        jobs = [await w.run() for _ in range(3)]
        status, batch = await w._call("GET", "job-take-batch/w?gpu=EMU&batch_size=8", None, "worker-key")

    assert (status, [job["id"] for job in batch]) == (200, jobs)
    assert batch[0]["input"] == {"n": 1}


async def test_take_waits_for_a_job() -> None:
    """The poll that is open gets it."""
    async with wire() as w:
        taking = asyncio.create_task(w.take())
        await w.emulator.log.until(lambda: w.endpoint.fleet.workers, TIMEOUT)
        assert await w.run() == await taking


async def test_worker_that_hangs_up() -> None:
    """Its poll ends, and the job is for the next."""
    async with wire() as w:
        taking = asyncio.create_task(w.take())
        await w.emulator.log.until(lambda: w.endpoint.fleet.workers, TIMEOUT)
        taking.cancel()
        with suppress(asyncio.CancelledError):
            await taking
        job_id = await w.run()
        status, job = await w.worker("job-take", worker="other")

    assert (status, job["id"]) == (200, job_id)
    assert job_id.endswith("-e1")


async def test_stop_channel() -> None:
    """Held until there is something to stop."""
    async with wire() as w:
        job_id = await w.run()
        await w.take()
        stopping = asyncio.create_task(w.worker("job-stop"))
        assert await w.client("POST", f"cancel/{job_id}") == (200, {"id": job_id, "status": "CANCELLED"})
        assert await stopping == (200, {"jobsToStop": [job_id]})
        assert (await w.worker(f"job-done/{job_id}", "late"))[0] == 200
        assert "output" not in (await w.client("GET", f"status/{job_id}"))[1]


async def test_runsync_that_takes_too_long() -> None:
    """Is answered as it stands, and can be polled."""
    async with wire(clock=Clock(speed=50)) as w:
        status, job = await w.client("POST", "runsync?wait=1000", {"input": 1})
        assert (status, job["status"]) == (200, "IN_QUEUE")
        assert (await w.client("GET", f"status-sync/{job['id']}?wait=1000"))[1]["status"] == "IN_QUEUE"


async def test_retention() -> None:
    """On a clock that can be advanced."""
    async with wire() as w:
        job_id = await w.run()
        await w.worker(f"job-done/{await w.take()}", "x")
        assert (await w.client("GET", f"status/{job_id}"))[0] == 200
        w.emulator.clock.advance(1801)
        await w.emulator.log.until(lambda: not w.endpoint.queue.jobs, TIMEOUT)
        assert (await w.client("GET", f"status/{job_id}"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "no input"},
        [],
        {"input": 1, "policy": {"executionTimeout": 10}},
        {"input": 1, "policy": {"ttl": 10}},
        {"input": 10_000_000 * "x"},
    ],
    ids=["no input", "no object", "executionTimeout", "ttl", "too large"],
)
async def test_refused(body: object) -> None:
    async with wire() as w:
        assert (await w.client("POST", "run", body))[0] == 400


async def test_sizes() -> None:
    """Results of 10 MB, pieces of 1 MB."""
    async with wire() as w:
        job_id = await w.run()
        await w.take()
        assert (await w.worker(f"job-stream/{job_id}", 1_000_000 * "x"))[0] == 400
        assert (await w.worker(f"job-stream/{job_id}", 900_000 * "x"))[0] == 200
        assert (await w.worker(f"job-done/{job_id}", 10_000_000 * "x"))[0] == 400
        assert (await w.worker(f"job-done/{job_id}", 9_000_000 * "x"))[0] == 200


async def test_large_pieces_may_be_split() -> None:
    async with wire(Settings(split_large_chunks=True)) as w:
        job_id = await w.run()
        await w.take()
        assert (await w.worker(f"job-stream/{job_id}", 1_200_000 * "x"))[0] == 200
        pieces = [item["output"] for item in (await w.client("GET", f"stream/{job_id}"))[1]["stream"]]

    assert "".join(pieces) == 1_200_000 * "x"
    assert len(pieces) > 1


async def test_rate_limit() -> None:
    """Two purges in ten seconds."""
    async with wire(Settings(rate_limits=True)) as w:
        statuses = [(await w.client("POST", "purge-queue"))[0] for _ in range(3)]
        w.emulator.clock.advance(10)
        statuses.append((await w.client("POST", "purge-queue"))[0])

    assert statuses == [200, 200, 429, 200]


async def test_webhook() -> None:
    """Tried until it says 200, ten seconds apart."""
    got: list[Any] = []

    async def receive(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.Response(status=200 if len(got) == 2 else 500)

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with wire(clock=Clock(speed=100)) as w:
        job_id = await w.run(webhook=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
        await w.worker(f"job-done/{await w.take()}", "x")
        await w.emulator.log.until(lambda: len(w.emulator.log.find("webhook")) == 2, 100 * TIMEOUT)
    await runner.cleanup()

    assert [(job["id"], job["status"], job["output"]) for job in got] == 2 * [(job_id, "COMPLETED", "x")]


async def test_openai_route() -> None:
    """A request becomes a job; the first output is the answer."""
    async with wire() as w:
        asking = asyncio.create_task(w.client("POST", "openai/v1/chat/completions", {"messages": []}))
        _, job = await w.worker("job-take")
        assert job["input"] == {"openai_route": "/v1/chat/completions", "openai_input": {"messages": []}}
        assert job["id"].startswith("sync-")
        await w.worker(f"job-done/{job['id']}", [{"id": "answer"}])
        assert await asking == (200, {"id": "answer"})


async def test_openai_route_streams() -> None:
    """Pieces are written as they are, one after the other."""
    async with wire() as w:
        asking = asyncio.create_task(w.client("POST", "openai/v1/completions", {"stream": True}))
        job_id = await w.take()
        for piece in ("data: 1", "\n\ndata: [DONE]\n\n"):
            await w.worker(f"job-stream/{job_id}", piece)
        await w.worker(f"job-done/{job_id}", [])
        assert await asking == (200, "data: 1\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(("shows", "body"), [(True, {"error": "CANCELLED"}), (False, None)])
async def test_openai_route_of_a_job_that_fails(shows: bool, body: object) -> None:
    """500, whatever it was."""
    async with wire(Settings(openai_error_body=shows)) as w:
        asking = asyncio.create_task(w.client("POST", "openai/v1/completions", {}))
        await w.client("POST", f"cancel/{await w.take()}")
        assert await asking == (500, body)


@pytest.mark.parametrize("cancels", [False, True])
async def test_openai_client_that_hangs_up(cancels: bool) -> None:
    """Whether that cancels its job is not known."""
    async with wire(Settings(cancel_on_disconnect=cancels, stop_hold=0.5)) as w:
        asking = asyncio.create_task(w.client("POST", "openai/v1/completions", {}))
        await w.take()
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        assert (await w.worker("job-stop"))[0] == (200 if cancels else 204)


async def test_silent_worker() -> None:
    """Its jobs go to another."""
    async with wire() as w:
        await w.run()
        job_id = await w.take()
        await w.worker("ping")
        w.emulator.clock.advance(61)
        assert (await w.worker("job-take", worker="other"))[1]["id"] == job_id
        assert (await w.client("GET", "health"))[1]["jobs"]["retried"] == 1


async def test_faults() -> None:
    """Before the platform has acted, or after: then only the answer is lost."""
    async with wire() as w:
        w.emulator.faults.add(Fault("run", status=503, num_times=1))
        w.emulator.faults.add(Fault("run", drops=True, when="after", num_times=1))
        assert (await w.client("POST", "run", {"input": 1}))[0] == 503
        with pytest.raises(aiohttp.ClientError):
            await w.client("POST", "run", {"input": 1})

        assert len(w.endpoint.queue.jobs) == 1


async def test_worker_that_wants_to_be_replaced() -> None:
    """The SDK's refresh_worker: the result is kept, and the worker gets nothing more."""
    async with wire(Settings(take_hold=0.1)) as w:
        job_id = await w.run()
        await w.take()
        body = json.dumps({"output": "x", "stopPod": True}).encode()
        await w._call("POST", f"job-done/w/{job_id}?gpu=EMU", body, "worker-key")
        await w.run()
        assert (await w.worker("job-take"))[0] == 204
        assert (await w.client("GET", f"status/{job_id}"))[1]["output"] == "x"


async def test_load_balancing_without_workers() -> None:
    """Waits for two minutes, and says so as RunPod does."""
    async with wire(clock=Clock(speed=500)) as w:
        w.emulator.add_endpoint("lb", EndpointSettings(kind="load_balancing"))
        answers = [
            await w.balanced("ep"),
            await w.balanced("lb"),
            await w.balanced("lb", "strict gone"),
            await w.balanced("none"),
        ]

    assert answers == [
        (400, {"error": "not allowed for QB API"}),
        (400, {"status": 400, "title": "Bad Request", "detail": "timed out waiting for worker"}),
        (404, {"status": 404, "title": "Error", "detail": "affinity_worker_gone"}),
        (404, {"status": 404, "title": "Error", "detail": "there is no such endpoint"}),
    ]
