"""This worker and its peers under the same load, in one table, with what llama.cpp itself can compute above it.

    python benchmarks/throughput.py                                           the demo model, on the CPU
    python benchmarks/throughput.py --model m.gguf --concurrency 8,32,64 --repeat 3
    python benchmarks/throughput.py --workloads equal,unequal,lognormal --concurrency 32,64
    python benchmarks/throughput.py --servers "this worker,llama-server,defaults" --concurrency 32
    FORMER_WORKER=DIR python benchmarks/throughput.py --servers "this worker,former worker" --repeat 6

The headline is the closed loop of people's chats (benchmarks/people.py), measured for --seconds from its first
question; "equal" is prompts and answers of one length, all at once. Each program is measured alone: the others are not
running. In each of the --repeat rounds all of them take their turn, every second time in the opposite order, started
anew with the same questions. Tokens/s are those generated; "spread" says how far the slowest and the fastest run are
from their middle. "/ceiling" is the ratio to llama-batched-bench in the better of its two modes, whose time has prompts
of the same (for the loop: of the mean) length in it; "/llama-s" the ratio to llama-server in the best mode measured
here. Times are in milliseconds, of the first text and between two texts.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ceiling  # the path comes first
from benchmarks.ceiling import Ceiling
from benchmarks.circumstances import Circumstances, circumstances
from benchmarks.people import MOST_TOKENS
from benchmarks.progress import Progress
from benchmarks.row import Row, middle, summarise
from benchmarks.servers import (
    ALIASES,
    FOLDER,
    LLAMA_SERVER,
    STARTS,
    TUNED,
    WORKER,
    WORKER_DEFAULTS,
    Load,
    NotHereError,
    Server,
    cells,
    peers_python,
    room_for,
    spawned,
)
from benchmarks.table import HEAD, ceiling_line, conclusions, line
from benchmarks.workloads import ALIASES as OLD_NAMES
from benchmarks.workloads import WORKLOADS, Driver, Shape
from handler.cpu_quota import num_usable_cores


class Results(NamedTuple):
    """All of one run of this program."""

    circumstances: Circumstances
    shape: Shape
    n_ctx: int
    ceilings: list[Ceiling]
    rows: list[Row]
    commands: dict[str, str]  # how each server was started

    def json(self) -> str:
        parts: dict[str, Any] = self._asdict()
        parts |= {"circumstances": self.circumstances._asdict(), "shape": self.shape._asdict()}
        parts["ceilings"] = [ceiling._asdict() for ceiling in self.ceilings]
        parts["rows"] = [row._asdict() for row in self.rows]
        return json.dumps(parts, indent=1)


class Bench:
    """Measures one server after the other, each alone. Those that cannot start are left out from then on."""

    def __init__(self, args: argparse.Namespace, load: Load, shape: Shape, ceilings: list[Ceiling]) -> None:
        self.commands: dict[str, str] = {}
        self._args = args
        self._load = load
        self._shape = shape
        self._ceilings = ceilings
        self._names = list(args.servers)
        self._progress = Progress(len(args.concurrency) * args.repeat * len(args.servers) * len(args.workloads))

    def measure(self) -> list[Row]:
        self._progress.write("\n" + HEAD)
        rows = [row for concurrency in self._args.concurrency for row in self._compare(concurrency)]
        self._progress.close()
        return rows

    def _compare(self, concurrency: int) -> list[Row]:
        """All workloads at one number of chats."""
        runs: dict[str, dict[str, list[Row]]] = {workload: {} for workload in self._args.workloads}
        for round_number in range(self._args.repeat):
            for name in in_turn(self._names, round_number):
                for row in self._run(name, concurrency, round_number):
                    runs[row.workload].setdefault(name, []).append(row)
        rows = []
        for workload, by_name in runs.items():
            known = [
                found for found in self._ceilings if (found.workload, found.concurrency) == (workload, concurrency)
            ]
            some = compared([middle(by_name[name]) for name in self._args.servers if name in by_name], known)
            self._progress.write("".join([*map(ceiling_line, known), *map(line, some)]))
            rows += some
        return rows

    def _run(self, name: str, concurrency: int, round_number: int) -> list[Row]:
        """All workloads, on a server that was started for them: other chats would have left something in its cache."""
        self._progress.begin(f"{name}, {concurrency} chats")
        rows = []
        try:
            with spawned(name, self._load) as server:
                server.wait()
                self.commands[name] = server.command
                time.sleep(self._args.settle if name in (WORKER, WORKER_DEFAULTS) else 0)
                asyncio.run(self._warm_up(server))
                for number, workload in enumerate(self._args.workloads):
                    seed = (round_number * len(self._args.workloads) + number) * 1000 + concurrency
                    rows.append(asyncio.run(self._drive(server, workload, concurrency, seed)))
                    self._progress.done()
        except NotHereError as error:
            self._names.remove(name)
            self._progress.write(f"without {name}: {error}\n")
        return rows

    async def _warm_up(self, server: Server) -> None:
        await Driver(server.url, self._shape, -1, server.more).ask("Hello", 4)

    async def _drive(self, server: Server, workload: str, concurrency: int, seed: int) -> Row:
        answers = await WORKLOADS[workload](Driver(server.url, self._shape, seed, server.more), concurrency)
        for fault in sorted({answer.error for answer in answers if answer.error}):
            self._progress.write(f"{server.name}: {fault}\n")
        return summarise(workload, concurrency, server.name, server.peak_megabytes, answers)


def in_turn(names: list[str], round_number: int) -> list[str]:
    """Every second round backwards, so that what drifts with time drifts for all."""
    return list(names if round_number % 2 == 0 else reversed(names))


def compared(rows: list[Row], ceilings: list[Ceiling]) -> list[Row]:
    """With their parts of llama-server's best mode and of the better ceiling."""
    peer = max((row.rate for row in rows if row.server.startswith(LLAMA_SERVER)), default=0.0)
    ceiling = max((found.whole for found in ceilings), default=0.0)
    return [
        row._replace(of_peer=row.rate / peer if peer else None, of_ceiling=row.rate / ceiling if ceiling else None)
        for row in rows
    ]


def measure_ceilings(args: argparse.Namespace, load: Load, shape: Shape) -> list[Ceiling]:
    """Empty where no peers are wanted; and, with a word about it, where llama-batched-bench is not to be had."""
    if args.ceilings:
        return ceiling.read(args.ceilings) if args.ceilings.exists() else []
    if args.no_ceiling or not any(name.startswith(LLAMA_SERVER) for name in args.servers):
        return []
    found: list[Ceiling] = []
    try:
        for job in ceiling.jobs(shape, args.workloads):
            found += ceiling.measure(load, job, args.concurrency, args.repeat)
    except NotHereError as error:
        sys.stdout.write(f"no ceiling: {error}\n")
    return found


def longest_chat(workloads: list[str], shape: Shape) -> int:
    """Tokens of a prompt and its answer, with some for a chat template's frame."""
    lengths = {
        "equal": shape.prompt + shape.tokens + 64,
        "unequal": shape.prompt + shape.tokens + 64,
        "shared": shape.shared + shape.tokens + 64,
        "turns": shape.shared + 3 * (shape.tokens // 2 + 64),
        "long": max(shape.long, shape.prompt + shape.tokens) + 64,
        "trace": 4 * (shape.prompt + shape.tokens) + 64,
        "structured": shape.prompt + 4 * shape.tokens + 128,
    }
    return cells(max(lengths.get(workload, MOST_TOKENS) for workload in workloads))


def write(results: Results, json_path: Path | None, plot_path: Path | None, folder: Path, temporary: Path) -> None:
    rows = json_path or temporary / "rows.json"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.write_text(results.json())
    if json_path:
        sys.stdout.write(f"rows: {json_path}\n")
    if plot_path:
        plot(rows, plot_path, folder)


def plot(rows: Path, path: Path, folder: Path) -> None:
    """By the interpreter that has matplotlib, which this one need not."""
    try:
        python = peers_python(folder)
    except NotHereError as error:
        sys.stdout.write(f"no plot: {error}\n")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, Path(__file__).with_name("plot.py"), rows, path], check=True)
    sys.stdout.write(f"plot: {path}\n")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument(
        "--workloads", type=some_of(WORKLOADS, OLD_NAMES), default=["loop"], help=f"of {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--concurrency", type=lambda text: list(map(int, text.split(","))), default=[1, 4, 8, 16])
    parser.add_argument(
        "--servers", type=some_of(STARTS, ALIASES), default=TUNED, help=f"of {', '.join([*STARTS, *ALIASES])}"
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs; the middle one is shown, of two the faster")
    parser.add_argument("--chats", type=int, help="that the servers make room for; the most at once if not given")
    parser.add_argument(
        "--n-ctx", type=int, help="tokens of the cache; what the workloads need for all chats if not given"
    )
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    parser.add_argument(
        "--settle",
        type=float,
        default=0.0,
        help="seconds from the worker's first answer to the load: WEIGHTS=auto loads its second copy in them",
    )
    for name, size in Shape()._asdict().items():
        unit = "of the closed loop" if name == "seconds" else "tokens"
        parser.add_argument(f"--{name}", type=type(size), default=size, help=unit)
    parser.add_argument("--ceilings", type=Path, help="what ceiling.py --json has kept, instead of measuring them")
    parser.add_argument("--no-ceiling", action="store_true", help="without llama-batched-bench")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what benchmarks/peers.sh makes")
    parser.add_argument("--json", type=Path, help="write the rows here too, and what they were measured on and with")
    parser.add_argument("--plot", type=Path, help="a PNG; benchmarks/plot.py draws it later too, from the JSON")
    return parser.parse_args(argv)


def some_of(known: Iterable[str], aliases: Mapping[str, list[str]] | None = None) -> Callable[[str], list[str]]:
    """A parser of names with commas between them; an alias stands for a few of them."""
    known, aliases = list(known), aliases or {}

    def parse(text: str) -> list[str]:
        names = [name for word in text.split(",") for name in aliases.get(word, [word])]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join([*known, *aliases])}")
        return list(dict.fromkeys(names))

    return parse


def demo_model() -> Path:
    from handler.models.locate import locate  # noqa: PLC0415  # not needed where a model is named
    from handler.settings import Settings  # noqa: PLC0415

    return locate(Settings.from_env(dict(os.environ)))


def main() -> None:
    args = parse(sys.argv[1:])
    shape = Shape(args.prompt, args.tokens, args.shared, args.long, args.seconds)
    concurrency = args.chats or max(args.concurrency)
    longest = longest_chat(args.workloads, shape)
    n_ctx = args.n_ctx or room_for(longest, concurrency)
    with tempfile.TemporaryDirectory() as temporary:
        model = args.model or demo_model()
        load = Load(model, n_ctx, concurrency, args.threads, args.folder, Path(temporary), longest)
        where = circumstances(model, args.threads)
        sys.stdout.write(f"{where}{shape}, a cache of {n_ctx:,} tokens, {args.repeat} runs; each program alone\n")
        sys.stdout.flush()
        ceilings = measure_ceilings(args, load, shape)
        bench = Bench(args, load, shape, ceilings)
        rows = bench.measure()
        sys.stdout.write("\n" + conclusions(rows))
        results = Results(where, shape, n_ctx, ceilings, rows, bench.commands)
        write(results, args.json, args.plot, args.folder, Path(temporary))


if __name__ == "__main__":
    main()
