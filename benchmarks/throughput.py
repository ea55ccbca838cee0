"""This worker and its peers under the same load, in one table, with what llama.cpp itself can compute above it.

    python benchmarks/throughput.py                                           the demo model, on the CPU
    python benchmarks/throughput.py --model m.gguf --concurrency 1,8,32,64 --n-ctx 32768
    python benchmarks/throughput.py --workloads shared,turns,long,trace --concurrency 8

All servers are up at the same time, and every measurement is made with one after the other, so that a machine that
others use too is as noisy for all; for each number of chats they begin anew. Tokens/s are those generated, over the
time from the first request to the last token. "of ceiling" is their ratio to llama-batched-bench, whose time has the
same prompts in it. "computed" counts the prompt tokens that were not taken from the cache. Times are in milliseconds,
of the first text and between two texts.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ceiling  # the path comes first
from benchmarks.client import Answer
from benchmarks.servers import LLAMA_CPP_PYTHON, LLAMA_SERVER, WORKER, Load, NotHereError, Server, running
from benchmarks.workloads import WORKLOADS, Driver, Shape
from handler.cores import num_usable_cores

FOLDER = Path("~/.cache/gguf-on-runpod/llama.cpp").expanduser()  # where peers.sh leaves llama.cpp's programs


class Row(NamedTuple):
    """One server under one load. Milliseconds; megabytes."""

    workload: str
    concurrency: int
    server: str
    rate: float
    of_ceiling: float | None
    of_peer: float | None
    first_p50: float
    first_p95: float
    gap_p50: float
    gap_p95: float
    computed: int
    failed: int
    memory: float


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def summarise(workload: str, concurrency: int, server: Server, answers: list[Answer]) -> Row:
    good = [answer for answer in answers if not answer.error and answer.arrivals]
    for answer in answers:
        if answer.error:
            sys.stderr.write(f"{server.name}: {answer.error}\n")
    seconds = max((answer.ended for answer in answers), default=0) - min(answer.started for answer in answers)
    firsts = [1000 * answer.first for answer in good]
    gaps = [1000 * gap for answer in good for gap in answer.gaps]
    return Row(
        workload,
        concurrency,
        server.name,
        sum(answer.num_tokens for answer in good) / seconds,
        None,
        None,
        percentile(firsts, 0.5),
        percentile(firsts, 0.95),
        percentile(gaps, 0.5),
        percentile(gaps, 0.95),
        sum(answer.num_prompt_tokens - answer.num_cached_tokens for answer in good),
        len(answers) - len(good),
        server.peak_megabytes,
    )


def median_run(rows: list[Row]) -> Row:
    """The run in the middle by tokens/s."""
    return sorted(rows, key=lambda row: row.rate)[len(rows) // 2]


class Bench:
    """Servers that are up, and the seed of the next texts."""

    def __init__(self, servers: list[Server], shape: Shape, repeat: int) -> None:
        self._servers = servers
        self._shape = shape
        self._repeat = repeat
        self._seed = 0

    async def warm_up(self) -> None:
        for server in self._servers:
            await Driver(server.url, self._shape, -1).ask("Hello", 4)

    async def compare(self, workload: str, concurrency: int) -> list[Row]:
        runs: dict[str, list[Row]] = {server.name: [] for server in self._servers}
        for _ in range(self._repeat):
            self._seed += 1
            for server in self._servers:
                answers = await WORKLOADS[workload](Driver(server.url, self._shape, self._seed), concurrency)
                runs[server.name].append(summarise(workload, concurrency, server, answers))
        return with_peer([median_run(rows) for rows in runs.values()])


def with_peer(rows: list[Row]) -> list[Row]:
    peer = next((row.rate for row in rows if row.server == LLAMA_SERVER), None)
    return [row._replace(of_peer=row.rate / peer if peer else None) for row in rows]


HEAD = (
    f"{'workload':9}{'chats':>6}  {'server':17}{'tokens/s':>9}{'of ceiling':>11}{'of llama-s.':>12}"
    f"{'first p50':>10}{'p95':>8}{'gap p50':>9}{'p95':>8}{'computed':>9}{'failed':>7}{'MB':>7}\n"
)


def show(row: Row) -> str:
    ratios = "".join(
        f"{'' if ratio is None else f'{ratio:.2f}':>{width}}" for ratio, width in [(row[4], 11), (row[5], 12)]
    )
    times = f"{row.first_p50:>10.0f}{row.first_p95:>8.0f}{row.gap_p50:>9.1f}{row.gap_p95:>8.1f}"
    return (
        f"{row.workload:9}{row.concurrency:>6}  {row.server:17}{row.rate:>9.1f}{ratios}{times}"
        f"{row.computed:>9}{row.failed:>7}{row.memory:>7.0f}\n"
    )


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def measure_ceiling(load: Load, shape: Shape, concurrencies: list[int], repeat: int) -> dict[int, ceiling.Ceiling]:
    """The best of a few runs; empty, with a word about it, where llama-batched-bench is not to be had."""
    try:
        runs = [ceiling.measure(load, shape.prompt, shape.tokens, concurrencies) for _ in range(repeat)]
    except NotHereError as error:
        sys.stdout.write(f"no ceiling: {error}\n")
        return {}
    return {number: max(run[number] for run in runs if number in run) for run in runs for number in run}


async def measure(args: argparse.Namespace, load: Load, shape: Shape) -> list[Row]:
    rows: list[Row] = []
    wanted = "chats" in args.workloads and LLAMA_SERVER in args.servers
    ceilings = measure_ceiling(load, shape, args.concurrency, args.repeat) if wanted else {}
    names = list(args.servers)
    for number, concurrency in enumerate(args.concurrency):
        with ExitStack() as stack:  # anew: what other chats left in a cache would be measured too
            servers = start(names, load, stack)
            names = [server.name for server in servers]
            bench = Bench(servers, shape, args.repeat)
            await bench.warm_up()
            sys.stdout.write("" if number else "\n" + HEAD)
            for workload in args.workloads:
                known = ceilings.get(concurrency) if workload == "chats" else None
                if known:
                    sys.stdout.write(f"{workload:9}{concurrency:>6}  {'the ceiling':17}{known.whole:>9.1f}\n")
                for row in await bench.compare(workload, concurrency):
                    rows.append(row._replace(of_ceiling=row.rate / known.whole if known else None))
                    sys.stdout.write(show(rows[-1]))
                    sys.stdout.flush()
    return rows


def start(names: list[str], load: Load, stack: ExitStack) -> list[Server]:
    servers = []
    for name in names:
        try:
            servers.append(stack.enter_context(running(name, load)))
        except NotHereError as error:
            sys.stdout.write(f"without {name}: {error}\n")
    return servers


def plot(rows: list[Row], path: Path) -> None:
    """Tokens/s over concurrency, a line for each server and workload, if matplotlib is installed."""
    try:
        from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  # optional
    except ImportError:
        sys.stdout.write("no plot: matplotlib is not installed\n")
        return
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for key in dict.fromkeys((row.workload, row.server) for row in rows):
        points = [(row.concurrency, row.rate) for row in rows if (row.workload, row.server) == key]
        axes.plot(*zip(*points, strict=True), marker="o", label=", ".join(key))
    axes.set(xlabel="concurrent chats", ylabel="tokens/s", ylim=(0, None))
    axes.legend()
    figure.savefig(path)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument("--workloads", type=split, default=["chats"], help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--concurrency", type=lambda text: list(map(int, split(text))), default=[1, 4, 8, 16])
    parser.add_argument("--servers", type=split, default=[WORKER, LLAMA_SERVER, LLAMA_CPP_PYTHON])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the one in the middle is shown")
    parser.add_argument("--n-ctx", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    for name, size in Shape()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=size, help="tokens")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of llama-server and llama-batched-bench")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--plot", type=Path, help="a PNG")
    return parser.parse_args(argv)


def split(text: str) -> list[str]:
    return text.split(",")


def demo_model() -> Path:
    from handler.models.locate import locate  # noqa: PLC0415  # not needed where a model is named
    from handler.settings import Settings  # noqa: PLC0415

    return locate(Settings.from_env(dict(os.environ)))


def main() -> None:
    args = parse(sys.argv[1:])
    shape = Shape(args.prompt, args.tokens, args.shared, args.long)
    with tempfile.TemporaryDirectory() as logs:
        model = args.model or demo_model()
        load = Load(model, args.n_ctx, max(args.concurrency), args.threads, args.folder, Path(logs))
        sys.stdout.write(
            f"{model.name}, {args.threads} threads of {platform.processor() or platform.machine()}; {shape}\n"
        )
        rows = asyncio.run(measure(args, load, shape))
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in rows]))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
