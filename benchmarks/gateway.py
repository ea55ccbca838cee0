"""What the gateway adds: the same requests to a target directly and through the gateway, in turns, in one run.

    python benchmarks/gateway.py            about four minutes
    python benchmarks/gateway.py --quick    half a minute
    python benchmarks/gateway.py --peer "other-gateway --port 4000 --target {target}" --peer-url http://127.0.0.1:4000

Target, client and gateway are three processes that share this machine. The gateway runs as for people: log, usage
records in SQLite, no keys. Latencies are compared by their difference, rates and memory as they are.
"""

import argparse
import asyncio
import json
import math
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.client import CHAT, Answer, Client  # the path comes first
from benchmarks.connection import get
from benchmarks.progress import Progress
from tests.gateway.gateway_process import GatewayProcess, started

QUESTION = {"model": "mock", "messages": [{"role": "user", "content": "What is the capital of France? " * 8}]}
STREAM = {**QUESTION, "stream": True}
HELD = {**STREAM, "holds": True}
MANY = 32  # clients at once
NUM_LOADS = 5  # kinds of load in `measure`
MB = 1_000_000
PATIENCE = 120.0  # seconds until a load that hangs fails
KEY = "none"  # the gateway has no keys here
LEFT_WITHIN = 3.0  # seconds after which a target counts as never told


@dataclass(slots=True)
class Times:
    """Of one load. Seconds; for each answer one of each kind, in the order of their ends."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # to the first event of a stream
    num_events: int = 0
    seconds: float = 0.0  # all of it

    def take(self, answer: Answer) -> None:
        """Raises ConnectionError for an answer that is none."""
        if answer.error:
            raise ConnectionError(answer.error)
        self.whole.append(answer.whole)
        self.num_events += answer.num_events
        if answer.num_events:
            self.first.append(answer.first)

    def add(self, other: "Times") -> None:
        self.whole += other.whole
        self.first += other.first
        self.num_events += other.num_events
        self.seconds += other.seconds


class Sizes(NamedTuple):
    rounds: int
    single: int  # requests of one client, in each round
    many: int  # of all clients, in each round
    events: int  # of one burst
    streams: int  # open at once
    cancels: int  # in each round


FULL = Sizes(rounds=10, single=200, many=3200, events=50_000, streams=1000, cancels=10)
QUICK = Sizes(rounds=3, single=100, many=960, events=20_000, streams=1000, cancels=5)


@dataclass(eq=False)
class Subject:
    """Where requests are sent, and what came of it."""

    name: str
    url: str
    share: float = 1.0  # of the requests that others get
    single: Times = field(default_factory=Times)
    many: Times = field(default_factory=Times)
    stream: Times = field(default_factory=Times)
    rates: list[float] = field(default_factory=list)  # events per second
    cancels: list[float] = field(default_factory=list)


class Row(NamedTuple):
    """One line of the table: a value for each subject. `verdict` is about the gateway."""

    what: str
    unit: str
    values: Sequence[float]
    added: float | None = None
    target: str = ""
    is_met: bool | None = None


# Measuring


async def load(url: str, body: dict[str, Any], *, num_requests: int, num_callers: int) -> Times:
    """The same request again and again over kept connections, so many at once."""
    times = Times()
    clients = [Client(url, KEY) for _ in range(num_callers)]

    async def call(client: Client) -> None:
        for _ in range(num_requests // num_callers):
            times.take(await client.count(CHAT, body))

    await asyncio.gather(*(client.connect() for client in clients))
    start = time.perf_counter()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(call, clients))
    times.seconds = time.perf_counter() - start
    for client in clients:
        client.close()
    return times


async def measure(subjects: Sequence[Subject], target: str, sizes: Sizes, progress: Progress) -> None:
    """Each kind of load by itself; in each round all subjects one after the other, every second time backwards."""
    for subject in subjects:
        await load(
            subject.url, QUESTION, num_requests=int(200 * subject.share), num_callers=4
        )  # what is done once is done

    async def single(subject: Subject) -> None:
        subject.single.add(
            await load(subject.url, QUESTION, num_requests=int(sizes.single * subject.share), num_callers=1)
        )

    async def many(subject: Subject) -> None:
        subject.many.add(
            await load(subject.url, QUESTION, num_requests=max(MANY, int(sizes.many * subject.share)), num_callers=MANY)
        )

    async def stream(subject: Subject) -> None:
        subject.stream.add(
            await load(subject.url, STREAM, num_requests=int(sizes.single * subject.share) // 4, num_callers=1)
        )

    async def burst(subject: Subject) -> None:
        times = await load(
            subject.url, {**STREAM, "events": int(sizes.events * subject.share)}, num_requests=1, num_callers=1
        )
        subject.rates.append(times.num_events / (times.whole[0] - times.first[0]))

    async def cancel(subject: Subject) -> None:
        for _ in range(sizes.cancels):
            subject.cancels.append(await seconds_until_left(subject.url, target))

    loads: list[Callable[[Subject], Awaitable[None]]] = [single, many, stream, burst, cancel]
    for one_load in loads:
        for number in range(sizes.rounds):
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                progress.begin(f"{one_load.__name__}, {subject.name}")
                await one_load(subject)
                progress.done()


async def seconds_until_left(url: str, target: str) -> float:
    """From a client's close to the moment when the target sees it."""
    num_left = len(await when_left(target))
    (stream,) = await open_streams(url, 1)
    closed = time.monotonic()
    stream.close()
    while time.monotonic() - closed < LEFT_WITHIN:
        left = await when_left(target)
        if len(left) > num_left:
            return left[-1] - closed
        await asyncio.sleep(0.002)
    return math.inf


async def when_left(target: str) -> list[float]:
    """The times at which the target's held streams were left."""
    times: list[float] = json.loads(await get(target, "/left"))
    return times


class HeldStream:
    """An answer that stays open after its first event, until it is closed."""

    def __init__(self, url: str) -> None:
        self._client = Client(url, KEY)
        self._task = asyncio.create_task(self._client.count(CHAT, HELD))

    @property
    def has_begun(self) -> bool:
        """Raises ConnectionError if it has ended instead."""
        if self._task.done():
            raise ConnectionError(self._task.result().error)
        return self._client.answer is not None and self._client.answer.num_events > 0

    def close(self) -> None:
        self._client.close()


async def open_streams(url: str, num_streams: int) -> list[HeldStream]:
    """All with their first event."""
    streams = [HeldStream(url) for _ in range(num_streams)]
    async with asyncio.timeout(PATIENCE):
        while not all(stream.has_begun for stream in streams):  # noqa: ASYNC110  # no event: each is a look at a number
            await asyncio.sleep(0.002)
    return streams


async def memory_of(gateway: GatewayProcess, num_requests: int, sizes: Sizes) -> list[Row]:
    """Of a fresh gateway: at its start, after many requests, with many open streams."""
    start = gateway.memory
    half = num_requests // 2 // MANY * MANY
    await load(gateway.url, QUESTION, num_requests=half, num_callers=MANY)
    middle = gateway.memory
    await load(gateway.url, QUESTION, num_requests=half, num_callers=MANY)
    end = gateway.memory
    streams = await open_streams(gateway.url, sizes.streams)
    open_memory = gateway.memory
    for stream in streams:
        stream.close()
    return [
        _memory("memory at start", start, None),
        _memory(f"memory after {2 * half:,} requests", end, 90),
        _memory("  grown in the second half of them", end - middle, 2),
        _memory(f"memory with {sizes.streams:,} open streams", open_memory, 250),
    ]


def _memory(what: str, num_bytes: int, limit: float | None) -> Row:
    value = num_bytes / MB
    return Row(what, "MB", [math.nan, value], None, f"<= {limit:g}" if limit else "", value <= limit if limit else None)


# The table


def rows_of(subjects: Sequence[Subject]) -> list[Row]:
    return [
        _added("1 client, p50", [1000 * quantile(s.single.whole, 0.5) for s in subjects], 1.5),
        _added("1 client, p99", [1000 * quantile(s.single.whole, 0.99) for s in subjects], 5),
        _added(f"{MANY} clients, p50", [1000 * quantile(s.many.whole, 0.5) for s in subjects]),
        _added(f"{MANY} clients, p99", [1000 * quantile(s.many.whole, 0.99) for s in subjects]),
        _rate(f"{MANY} clients", "requests/s", [len(s.many.whole) / s.many.seconds for s in subjects], 1000),
        _added("stream, first event, p50", [1000 * quantile(s.stream.first, 0.5) for s in subjects], 2),
        _rate("stream in a burst", "events/s", [statistics.median(s.rates) for s in subjects], 20_000),
        _cancel([1000 * statistics.median(s.cancels) for s in subjects]),
    ]


def _added(what: str, values: Sequence[float], limit: float | None = None) -> Row:
    added = values[1] - values[0]
    return Row(what, "ms", values, added, f"+ <= {limit:g}" if limit else "", added <= limit if limit else None)


def _rate(what: str, unit: str, values: Sequence[float], limit: float) -> Row:
    return Row(what, unit, values, None, f">= {limit:,.0f}", values[1] >= limit)


def _cancel(values: Sequence[float]) -> Row:
    return Row("client leaves, target told", "ms", values, None, "<= 10", values[1] <= 10)


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, math.floor(part * len(values)))]


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    heads = [*names, "added", "target", ""]
    lines = [f"{'':36}{'':>12}" + "".join(f"{head:>14}" for head in heads)]
    for row in rows:
        values = [*row.values, *[math.nan] * (len(names) - len(row.values))]
        added = "" if row.added is None else f"{row.added:+.2f}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.is_met]
        cells = [*(number(value) for value in values), added, row.target, verdict]
        lines.append(f"{row.what:36}{row.unit:>12}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


# Processes


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextmanager
def mock_target() -> Iterator[str]:
    """Its address."""
    with process([sys.executable, str(Path(__file__).with_name("mock_target.py"))]) as child:
        assert child.stdout is not None
        yield child.stdout.readline().strip()


@contextmanager
def gateway_for(target: str) -> Iterator[GatewayProcess]:
    with tempfile.TemporaryDirectory() as folder:
        model = {"targets": [{"type": "openai", "base_url": f"{target}/v1"}]}
        with started(Path(folder), {"models": {"mock": model}}) as gateway:
            yield gateway


@contextmanager
def peer_for(target: str, command: str, url: str, share: float) -> Iterator[Subject]:
    words = shlex.split(command.replace("{target}", target))
    with process(words):
        deadline = time.monotonic() + PATIENCE
        while not listens(url):
            assert time.monotonic() < deadline, f"nothing listens at {url}"
            time.sleep(0.1)
        yield Subject(Path(words[0]).name, url, share)


def listens(url: str) -> bool:
    with socket.socket() as client:
        address = urlsplit(url)
        return client.connect_ex((address.hostname, address.port or 80)) == 0


def start_row(target: str, times: int) -> Row:
    """From the start of the process to the line that says it listens."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        with gateway_for(target):
            seconds.append(time.perf_counter() - start)
    value = statistics.median(seconds)
    return Row("from start to listening", "s", [math.nan, value], None, "<= 1.5", value <= 1.5)


def main(args: argparse.Namespace) -> None:
    sizes = QUICK if args.quick else FULL
    num_requests = args.requests or (10_000 if args.quick else 100_000)
    with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        target = stack.enter_context(mock_target())
        rows = [start_row(target, 3)]
        with gateway_for(target) as gateway:
            rows += runner.run(memory_of(gateway, num_requests, sizes))
        gateway = stack.enter_context(gateway_for(target))
        subjects = [Subject("direct", target), Subject("gateway", gateway.url)]
        if args.peer:
            subjects.append(stack.enter_context(peer_for(target, args.peer, args.peer_url, args.peer_share)))
        progress = Progress(NUM_LOADS * sizes.rounds * len(subjects))
        runner.run(measure(subjects, target, sizes, progress))
        progress.close()
        sys.stdout.write(table(rows_of(subjects) + rows, [subject.name for subject in subjects]))


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and 10,000 requests for the memory")
    parser.add_argument("--requests", type=int, metavar="N", help="for the memory; 100,000 if not given")
    parser.add_argument("--peer", metavar="COMMAND", help="another gateway beside ours; {target} is what it calls")
    parser.add_argument("--peer-url", default="http://127.0.0.1:4000", metavar="URL", help="where it listens")
    parser.add_argument(
        "--peer-share", type=float, default=0.1, help="of the requests: a peer may be a hundred times slower"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parse())
