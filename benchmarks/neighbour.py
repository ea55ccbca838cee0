"""What a busy neighbour costs on a laptop: seconds for a short answer, quiet and with one process that never rests.

    python benchmarks/neighbour.py
    python benchmarks/neighbour.py --variant OMP_WAIT_POLICY=PASSIVE --variant "N_THREADS=1" --repeat 9

The worker is started with each variant of its environment; the rounds take turns. Read the ratios: of a variant's quiet
answer over that of the worker as it is, and of its busy answer over its own quiet one.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.circumstances import circumstances  # the path comes first
from benchmarks.client import CHAT, ask
from benchmarks.progress import Progress
from benchmarks.servers import FOLDER, WORKER_DEFAULTS, Load, NotHereError, spawned
from benchmarks.throughput import demo_model
from handler.cpu_quota import num_usable_cores

AS_IT_IS = "as it is"
BUSY = "while True: pass"
Environment = dict[str, str]


class Row(NamedTuple):
    """One variant's answers, in seconds."""

    variant: str
    quiet: list[float]
    busy: list[float]


async def seconds_of_answer(url: str, tokens: int) -> float:
    """Raises ValueError for an answer that failed."""
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": tokens, "ignore_eos": True}
    answer = await ask(url, CHAT, body)
    if answer.error:
        raise ValueError(answer.error)
    return answer.whole


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that takes what it can of one core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def environment(more: Environment) -> Iterator[None]:
    """Ours with some more, for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def measure(variants: dict[str, Environment], model: Path, args: argparse.Namespace) -> list[Row]:
    """Raises NotHereError, and ValueError for an answer that failed."""
    rows = [Row(name, [], []) for name in variants]
    progress = Progress(len(rows) * args.repeat)
    with tempfile.TemporaryDirectory() as logs:
        load = Load(model, 0, 1, num_usable_cores(), FOLDER, Path(logs))
        for number in range(args.repeat):
            for row in rows if number % 2 == 0 else reversed(rows):
                progress.begin(row.variant)
                with environment(variants[row.variant]), spawned(WORKER_DEFAULTS, load) as server:
                    server.wait()
                    asyncio.run(seconds_of_answer(server.url, 2))
                    row.quiet.extend(asyncio.run(seconds_of_answer(server.url, args.tokens)) for _ in range(3))
                    with neighbour():
                        row.busy.extend(asyncio.run(seconds_of_answer(server.url, args.tokens)) for _ in range(3))
                progress.done()
    progress.close()
    return rows


def table(rows: list[Row]) -> str:
    first = statistics.median(rows[0].quiet)
    lines = [f"{'worker':34}{'quiet':>7}{'/first':>8}{'busy':>7}{'/quiet':>8}{'worst':>7}"]
    for row in rows:
        quiet, busy = statistics.median(row.quiet), statistics.median(row.busy)
        lines.append(
            f"{row.variant:34}{quiet:>7.2f}{quiet / first:>8.2f}{busy:>7.2f}{busy / quiet:>8.2f}{max(row.busy):>7.2f}"
        )
    return "\n".join(lines) + "\n"


def variant(text: str) -> Environment:
    """NAME=VALUE, a few with spaces between them. Raises ValueError."""
    return dict(word.split("=", 1) for word in text.split())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=VALUE", help="of the environment; again"
    )
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=3, help="rounds, of three answers quiet and three busy")
    parser.add_argument("--json", type=Path, help="write the times here")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    model = args.model or demo_model()
    sys.stdout.write(f"{circumstances(model, num_usable_cores())}seconds for {args.tokens} tokens, median\n\n")
    sys.stdout.flush()
    try:
        rows = measure({AS_IT_IS: {}, **{text: variant(text) for text in args.variant}}, model, args)
    except (NotHereError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(table(rows))
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in rows]))


if __name__ == "__main__":
    main()
