"""This worker and its peers under the same load, in one table, with what llama.cpp itself can compute above it.

    python benchmarks/throughput.py                                           the demo model, on the CPU
    python benchmarks/throughput.py --model m.gguf --concurrency 1,8,32,64 --n-ctx 32768 --repeat 3
    python benchmarks/throughput.py --workloads shared,turns,long,trace --concurrency 8

All servers are up at the same time, and every measurement is made with one after the other, so that a machine that
others use too is as noisy for all; for each number of chats they begin anew. Tokens/s are those generated, over the
time from the first request to the last token; "spread" says how far the slowest and the fastest of several runs are
from their middle. "/ceiling" is their ratio to llama-batched-bench, whose time has the same prompts in it, "/llama-s."
to llama-server. "computed" counts the prompt tokens that were not taken from the cache. Times are in milliseconds, of
the first text and between two texts.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ceiling  # the path comes first
from benchmarks.ceiling import Ceiling
from benchmarks.circumstances import Circumstances, circumstances
from benchmarks.row import Row, middle, summarise
from benchmarks.servers import FOLDER, LLAMA_SERVER, STARTS, Load, NotHereError, Server, peers_python, spawned
from benchmarks.table import HEAD, ceiling_line, conclusions, line
from benchmarks.workloads import WORKLOADS, Driver, Shape
from handler.cpu_quota import num_usable_cores

CEILINGS_WORKLOAD = "chats"  # what llama-batched-bench does too


class Results(NamedTuple):
    """All of one run of this program."""

    circumstances: Circumstances
    shape: Shape
    n_ctx: int
    ceilings: dict[int, Ceiling]
    rows: list[Row]

    def json(self) -> str:
        parts: dict[str, Any] = self._asdict()
        parts |= {"circumstances": self.circumstances._asdict(), "shape": self.shape._asdict()}
        parts["ceilings"] = {number: ceiling._asdict() for number, ceiling in self.ceilings.items()}
        parts["rows"] = [row._asdict() for row in self.rows]
        return json.dumps(parts, indent=1)


class Bench:
    """Servers that are up, and the seed of the next texts."""

    def __init__(self, servers: list[Server], shape: Shape, repeat: int) -> None:
        self._servers = servers
        self._shape = shape
        self._repeat = repeat
        self._seed = 0

    async def warm_up(self) -> None:
        for server in self._servers:
            await self._driver(server, -1).ask("Hello", 4)

    async def compare(self, workload: str, concurrency: int) -> list[Row]:
        runs: dict[str, list[Row]] = {server.name: [] for server in self._servers}
        for _ in range(self._repeat):
            self._seed += 1
            for server in self._servers:
                runs[server.name].append(await self._run(server, workload, concurrency))
        return with_peer([middle(rows) for rows in runs.values()])

    async def _run(self, server: Server, workload: str, concurrency: int) -> Row:
        answers = await WORKLOADS[workload](self._driver(server, self._seed), concurrency)
        for answer in answers:
            if answer.error:
                sys.stderr.write(f"{server.name}: {answer.error}\n")
        return summarise(workload, concurrency, server.name, server.peak_megabytes, answers)

    def _driver(self, server: Server, seed: int) -> Driver:
        return Driver(server.url, self._shape, seed, server.more)


def with_peer(rows: list[Row]) -> list[Row]:
    peer = next((row.rate for row in rows if row.server == LLAMA_SERVER), None)
    return [row._replace(of_peer=row.rate / peer if peer else None) for row in rows]


def measure_ceilings(args: argparse.Namespace, load: Load, shape: Shape) -> dict[int, Ceiling]:
    """Empty where no peers are wanted; and, with a word about it, where llama-batched-bench is not to be had."""
    if CEILINGS_WORKLOAD not in args.workloads or LLAMA_SERVER not in args.servers:
        return {}
    try:
        return ceiling.measure(load, shape.prompt, shape.tokens, args.concurrency, args.repeat)
    except NotHereError as error:
        sys.stdout.write(f"no ceiling: {error}\n")
        return {}


async def measure(args: argparse.Namespace, load: Load, shape: Shape, ceilings: dict[int, Ceiling]) -> list[Row]:
    rows: list[Row] = []
    names = list(args.servers)
    for concurrency in args.concurrency:
        with ExitStack() as stack:  # anew: what other chats left in a cache would be measured too
            servers = start(names, load, stack)
            names = [server.name for server in servers]
            bench = Bench(servers, shape, args.repeat)
            await bench.warm_up()
            sys.stdout.write("" if rows else "\n" + HEAD)
            for workload in args.workloads:
                known = ceilings.get(concurrency) if workload == CEILINGS_WORKLOAD else None
                rows += show(await bench.compare(workload, concurrency), known)
    return rows


def show(rows: list[Row], known: Ceiling | None) -> list[Row]:
    """Print the rows of one load; return them with their part of the ceiling."""
    if known:
        sys.stdout.write(ceiling_line(rows[0].workload, rows[0].concurrency, known.whole))
        rows = [row._replace(of_ceiling=row.rate / known.whole) for row in rows]
    sys.stdout.write("".join(map(line, rows)))
    sys.stdout.flush()
    return rows


def start(names: list[str], load: Load, stack: ExitStack) -> list[Server]:
    """All at the same time: loading a model is mostly waiting. Those that cannot start are left out, with a word."""
    spawning, servers = [], []
    for name in names:
        try:
            spawning.append(stack.enter_context(spawned(name, load)))
        except NotHereError as error:
            sys.stdout.write(f"without {name}: {error}\n")
    for server in spawning:
        try:
            server.wait()
            servers.append(server)
        except NotHereError as error:
            sys.stdout.write(f"without {server.name}: {error}\n")
    return servers


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
    parser.add_argument("--workloads", type=some_of(WORKLOADS), default=["chats"], help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--concurrency", type=lambda text: list(map(int, text.split(","))), default=[1, 4, 8, 16])
    parser.add_argument("--servers", type=some_of(STARTS), default=list(STARTS), help=f"of {', '.join(STARTS)}")
    parser.add_argument("--repeat", type=int, default=1, help="runs; the middle one is shown, of two the faster")
    parser.add_argument("--n-ctx", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    for name, size in Shape()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=size, help="tokens")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what benchmarks/peers.sh makes")
    parser.add_argument("--json", type=Path, help="write the rows here too, and what they were measured on and with")
    parser.add_argument("--plot", type=Path, help="a PNG; benchmarks/plot.py draws it later too, from the JSON")
    return parser.parse_args(argv)


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not of {', '.join(known)}")
        return names

    return parse


def demo_model() -> Path:
    from handler.models.locate import locate  # noqa: PLC0415  # not needed where a model is named
    from handler.settings import Settings  # noqa: PLC0415

    return locate(Settings.from_env(dict(os.environ)))


def main() -> None:
    args = parse(sys.argv[1:])
    shape = Shape(args.prompt, args.tokens, args.shared, args.long)
    with tempfile.TemporaryDirectory() as temporary:
        model = args.model or demo_model()
        load = Load(model, args.n_ctx, max(args.concurrency), args.threads, args.folder, Path(temporary))
        where = circumstances(model, args.threads)
        sys.stdout.write(f"{where}{shape}\n")
        sys.stdout.flush()
        ceilings = measure_ceilings(args, load, shape)
        rows = asyncio.run(measure(args, load, shape, ceilings))
        sys.stdout.write("\n" + conclusions(rows))
        results = Results(where, shape, args.n_ctx, ceilings, rows)
        write(results, args.json, args.plot, args.folder, Path(temporary))


if __name__ == "__main__":
    main()
