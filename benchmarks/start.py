"""How long a start takes: from a process's spawning to the first text of its first answer, the model in the page cache.

    python benchmarks/start.py                                    the demo model, on the CPU
    python benchmarks/start.py --model m.gguf --n-ctx 32768

The servers take turns, one at a time, every second round in the opposite order, after a start of each that is not
counted: it leaves Python's bytecode and the mark that the file was tried, as images have them. Knows nothing of what
comes before a process: images, downloads, disks.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.circumstances import circumstances  # the path comes first
from benchmarks.progress import Progress
from benchmarks.servers import ALIASES, FOLDER, PATIENCE, STARTS, UNIFIED, WORKER, Load, NotHereError, Server, spawned
from benchmarks.throughput import demo_model, some_of
from benchmarks.workloads import Driver, Shape
from handler.cpu_quota import num_usable_cores

PAUSE = 0.02  # seconds between two tries: how exact the times are
NUM_TOKENS = 4  # the first alone may be half a character, which no server sends


class Row(NamedTuple):
    """One server's starts, in seconds."""

    server: str
    times: list[float]

    def __str__(self) -> str:
        times = "  ".join(f"{seconds:.2f}" for seconds in self.times)
        return f"{self.server:24}{statistics.median(self.times):>8.2f}    {times}\n"


async def seconds_to_first_text(server: Server) -> float:
    """Ask until it answers. Raises NotHereError."""
    driver = Driver(server.url, Shape(), 0, server.more)
    while time.perf_counter() - server.started < PATIENCE and server.process.poll() is None:
        answer = await driver.ask("Hello", NUM_TOKENS)
        if answer.arrivals:
            return answer.arrivals[0] - server.started
        await asyncio.sleep(PAUSE)
    raise server.did_not_start()


def measure(names: list[str], load: Load, repeat: int) -> list[Row]:
    """Those that cannot start are left out, with a word."""
    rows = [Row(name, []) for name in names]
    progress = Progress((1 + repeat) * len(names))
    for number in range(-1, repeat):
        for row in list(rows) if number % 2 == 0 else rows[::-1]:
            progress.begin(row.server)
            try:
                with spawned(row.server, load) as server:
                    seconds = asyncio.run(seconds_to_first_text(server))
                if number >= 0:
                    row.times.append(seconds)
            except NotHereError as error:
                progress.write(f"without {row.server}: {error}\n")
                rows.remove(row)
            progress.done()
    progress.close()
    return rows


def read(path: Path) -> None:
    """Into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument(
        "--servers", type=some_of(STARTS, ALIASES), default=[WORKER, UNIFIED], help=f"of {', '.join(STARTS)}"
    )
    parser.add_argument("--repeat", type=int, default=3, help="starts of each")
    parser.add_argument("--n-ctx", type=int, default=8192)
    parser.add_argument("--chats", type=int, default=16, help="at once, for which the servers make room")
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what benchmarks/peers.sh makes")
    parser.add_argument("--json", type=Path, help="write the times here too, and what they were measured on and with")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    model = args.model or demo_model()
    where = circumstances(model, args.threads)
    sys.stdout.write(f"{where}\n{'server':24}{'median':>8}    each, in seconds\n")
    sys.stdout.flush()
    read(model)
    with tempfile.TemporaryDirectory() as logs:
        load = Load(model, args.n_ctx, args.chats, args.threads, args.folder, Path(logs))
        rows = measure(args.servers, load, args.repeat)
    sys.stdout.write("".join(map(str, rows)))
    if args.json:
        args.json.write_text(json.dumps({"circumstances": where._asdict(), "rows": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()
