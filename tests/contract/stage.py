"""Where the stories play: an emulated platform, an endpoint of real worker processes, and what clients do."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.runpod_emulator import Emulator, Endpoint, EndpointSettings, Event, Json, Settings, State, Worker
from tests.waiting import eventually

T = TypeVar("T")

TIMEOUT = 60.0  # seconds until a story that hangs fails; nothing waits so long otherwise
ROOT = Path(__file__).parents[2]
HANDLER = (sys.executable, "-m", "handler")
ODD_WORKER = (sys.executable, "-m", "tests.contract.odd_worker")
NAIVE_WORKER = (sys.executable, "-m", "tests.contract.naive_worker")
SETTINGS = Settings(take_hold=2, stop_hold=2, ping_interval=1, lost_job_after=5, ping_deadline=30)
NUM_SHOWN = 400  # events that a failure shows
MANY = 100_000  # tokens: more than any context holds


@dataclass(frozen=True, slots=True)
class Model:
    """What workers are to serve, and where they may write."""

    path: Path
    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "MODEL": str(self.path),
            "MODEL_ALIAS": "model",
            "N_THREADS": "1",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
        }


class Stage:
    def __init__(self, emulator: Emulator, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.endpoint = endpoint
        self.log = emulator.log
        self.fleet = endpoint.fleet
        self.queue = endpoint.queue
        self._session = session
        self.url = f"{emulator.url}/v2/{endpoint.name}"

    # Clients

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.emulator.settings.client_key}"}

    def openai(self, url: str = "") -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=url or f"{self.url}/openai/v1",
            api_key=self.emulator.settings.client_key,
            max_retries=0,
            timeout=TIMEOUT,
        )

    def anthropic(self) -> AsyncAnthropic:
        return AsyncAnthropic(
            base_url=f"{self.url}/openai",
            api_key=None,
            auth_token=self.emulator.settings.client_key,
            max_retries=0,
            timeout=TIMEOUT,
        )

    async def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Any]:
        """Status and JSON body, or its text if it is none."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with self._session.request(
            method, f"{self.url}/{path}", json=body, headers=self.headers, timeout=timeout
        ) as answer:
            text = await answer.text()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    async def run(self, job_input: object, **more: Any) -> str:
        status, body = await self.call("POST", "run", {"input": job_input, **more})
        assert status == 200, body
        return str(body["id"])

    async def runsync(self, job_input: object) -> Json:
        status, body = await self.call("POST", "runsync", {"input": job_input})
        assert status == 200, body
        return dict(body)

    async def status(self, job_id: str) -> Json:
        status, body = await self.call("GET", f"status/{job_id}")
        assert status == 200, body
        return dict(body)

    async def cancel(self, job_id: str) -> None:
        status, _ = await self.call("POST", f"cancel/{job_id}")
        assert status == 200

    async def stream(self, job_id: str) -> list[str]:
        """All pieces, as a client of /stream gets them."""
        pieces: list[str] = []
        while True:
            _, body = await self.call("GET", f"stream/{job_id}")
            pieces += [item["output"] for item in body["stream"]]
            if body["status"] not in ("IN_QUEUE", "IN_PROGRESS") and not body["stream"]:
                return pieces

    # What happens

    async def until(self, condition: Callable[[], T], what: str = "") -> T:
        value = await self.log.until(condition, TIMEOUT)
        assert value, f"did not happen: {what or condition}\n" + "\n".join(map(str, self.log.events[-NUM_SHOWN:]))
        return value

    def failed_starts(self) -> list[Event]:
        """The ends of workers that ended by themselves before they were ready, and did not tell the platform why."""
        explained = {
            event.worker_id
            for name in ("worker_ready", "worker_unhealthy", "worker_stopped", "worker_killed")
            for event in self.log.find(name)
        }
        return [
            gone
            for gone in self.log.find("worker_gone")
            if gone.worker_id not in explained and gone.detail.startswith("exit code") and gone.detail != "exit code 0"
        ]

    async def happens(self, name: str, *, job_id: str = "", worker_id: str = "", times: int = 1) -> Event:
        """The event, once it has happened so many times."""
        events = await self.until(
            lambda: (found := self.log.find(name, job_id=job_id, worker_id=worker_id))[times - 1 :] and found,
            f"{name} {job_id} {worker_id} {times} times",
        )
        return events[times - 1]

    async def prints(self, text: str, *, worker_id: str = "", after: Event | None = None) -> Event:
        """The first line of a worker's output with this text in it, after an event if one is given."""
        start = after.number if after else -1
        lines = await self.until(
            lambda: [line for line in self.log.find("log", worker_id=worker_id)
                     if text in line.detail and line.number > start],
            f"{worker_id} prints {text}",
        )  # fmt: skip
        return lines[0]

    async def ends(self, job_id: str) -> Json:
        await self.happens("ended", job_id=job_id)
        return await self.status(job_id)

    async def worker(self) -> Worker:
        """The one that is ready, once it is; started if there is none."""
        if not any(worker.is_present for worker in self.fleet.workers.values()):
            self.fleet.start()
        return (await self.until(lambda: self.fleet.of_state(State.READY), "a worker is ready"))[0]

    async def stands_still(self, worker: Worker) -> None:
        """The process has stopped running after SIGSTOP, which it gets while it still may be on a processor."""
        assert worker.process is not None
        stat = Path(f"/proc/{worker.process.pid}/stat")
        await eventually(lambda: stat.read_text().rpartition(") ")[2].startswith("T"))

    def printed(self, worker_id: str = "") -> str:
        """All that the workers have printed."""
        return "\n".join(line.detail for line in self.log.find("log", worker_id=worker_id))


@asynccontextmanager
async def stage(
    model: Model,
    *,
    settings: Settings = SETTINGS,
    command: tuple[str, ...] = HANDLER,
    env: dict[str, str] | None = None,
    starts: bool = True,
    **own: Any,
) -> AsyncIterator[Stage]:
    """`own` are EndpointSettings. In the end no worker is left.

    Where `starts`, each worker is expected to: see expecting_starts.
    """
    own = {"requests_per_worker": 100, "idle_timeout": 1000.0, "max_workers": 1, "restart_pause": 0.1} | own
    async with Emulator(settings) as emulator, aiohttp.ClientSession() as session:
        endpoint = emulator.add_endpoint(
            "ep", EndpointSettings(command=command, env={**model.env, **(env or {})}, **own)
        )
        here = Stage(emulator, endpoint, session)
        async with expecting_starts(here) if starts else nullcontext():
            yield here


@asynccontextmanager
async def expecting_starts(here: Stage) -> AsyncIterator[None]:
    """Fails what runs within as soon as a worker ends by itself before it was ready, and tells what it printed."""
    try:
        async with asyncio.timeout(None) as patience:

            def hear(event: Event) -> None:
                if event.name == "worker_gone" and here.failed_starts() and not patience.expired():
                    patience.reschedule(0)  # now

            here.log.listener = hear
            yield
    except TimeoutError:
        assert not patience.expired(), f"a worker did not start:\n{here.printed()}"
        raise
    finally:
        here.log.listener = None


def content(events: str) -> str:
    """The text of a streamed answer, chat or completion."""
    return "".join(choice_text(event["choices"][0]) for event in parse_events(events) if event.get("choices"))


def choice_text(choice: Json) -> str:
    return str(choice.get("text") or choice.get("delta", {}).get("content") or "")


def parse_events(events: str) -> list[Json]:
    """What is told in a stream that ends as it must."""
    assert events.endswith("data: [DONE]\n\n"), events[-200:]
    parts = events.removesuffix("\n\n").split("\n\n")
    assert all(part.startswith("data: ") for part in parts), events
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]
