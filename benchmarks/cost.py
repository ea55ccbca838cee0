"""What a million tokens cost on an endpoint or a worker under people's chats (benchmarks/people.py).

    python -m benchmarks.cost                                      a worker on this machine, with the demo model
    python -m benchmarks.cost --model m.gguf --gpu H100            the same with another model; which GPU is in here
    RUNPOD_API_KEY=... python -m benchmarks.cost --url https://api.runpod.ai/v2/ID/openai/v1 --name llama --gpu A100
    python -m benchmarks.cost --from cost.json --price 0.79 --busy 3600       no measurement: what --json has kept

At each number of chats it measures the closed loop, then prompts alone, and prices the tokens with every GPU of
gpu_prices.json. Only the row of the GPU that was measured (--gpu) is a measurement; the others say what the same
tokens/s would cost at their price. docs/costs.md has the method.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.circumstances import circumstances  # the path comes first
from benchmarks.client import CHAT, Answer, ask
from benchmarks.connection import get
from benchmarks.people import MOST_TOKENS, closed_loop
from benchmarks.pricing import PRICES, Gpu, Prices, Speed, Waking, break_even, cost, price_of, read_prices
from benchmarks.progress import Progress, waited_for
from benchmarks.row import rate_in_window
from benchmarks.servers import FOLDER, WORKER, Load, NotHereError, room_for, spawned
from benchmarks.start import read, seconds_to_first_text
from benchmarks.throughput import demo_model
from handler.cpu_quota import num_usable_cores

START = 10.0  # seconds of a cold start that is not measured
PATIENCE = 60.0  # seconds that answers may take when the time is over: their usage is needed
BURSTS = (20, 300, 3600)  # seconds of work, whose shares of a cold start are shown
KEYS = ("RUNPOD_API_KEY", "OPENAI_API_KEY")  # of the environment


class Target(NamedTuple):
    """What is measured."""

    url: str  # without /v1
    key: str
    more: dict[str, Any]  # that each request says; None takes a field away
    words: str
    start: float | None  # seconds, if it was seen to start


class Measured(NamedTuple):
    """All that prices are made of, and what to know about it."""

    date: str
    words: str
    start: float | None
    speeds: list[Speed]
    warnings: list[str]

    def json(self) -> str:
        return json.dumps({**self._asdict(), "speeds": [speed._asdict() for speed in self.speeds]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Measured":
        data = json.loads(text)
        return cls(**{**data, "speeds": [Speed(**speed) for speed in data["speeds"]]})


# Measuring


async def measure(target: Target, args: argparse.Namespace) -> Measured:
    progress = Progress(len(args.concurrency) * args.repeat * 2)
    speeds, warnings = [], []
    for concurrency in args.concurrency:
        before = await num_workers(target)
        rates, answers, prompts = list[float](), list[Answer](), list[float]()
        for number in range(args.repeat):
            seed = 1000 * number + concurrency
            progress.begin(f"{concurrency} chats")
            some = await closed_loop(
                target.url, concurrency, args.seconds, seed, more=target.more, key=target.key, patience=PATIENCE
            )
            rates.append(rate_in_window([answer for answer in some if not answer.error]))
            answers += some
            progress.done()
            progress.begin(f"{concurrency} prompts at once")
            prompts.append(await prompt_rate(target, concurrency, args.seconds / 2, seed + 500))
            progress.done()
        after = await num_workers(target)
        warnings += [f"at {concurrency} at once, {fault}" for fault in faults(answers, before, after)]
        speeds.append(speed(concurrency, rates, answers, statistics.median(prompts), max(before, after)))
    progress.close()
    return Measured(date.today().isoformat(), target.words, target.start, speeds, warnings)


async def prompt_rate(target: Target, concurrency: int, seconds: float, seed: int) -> float:
    """Prompt tokens/s where each answer is one token."""
    more = {**target.more, "max_tokens": 1}
    answers = await closed_loop(target.url, concurrency, seconds, seed, more=more, key=target.key, patience=PATIENCE)
    good = [answer for answer in answers if not answer.error and not answer.is_cut]
    if not good:
        return 0.0
    took = max(answer.ended for answer in good) - min(answer.started for answer in good)
    return sum(answer.num_prompt_tokens - answer.num_cached_tokens for answer in good) / took


def speed(concurrency: int, rates: list[float], answers: list[Answer], prompts: float, workers: int) -> Speed:
    """Input comes with output in the answers' own proportion, which those that were cut do not tell."""
    output = statistics.median(rates)
    over = [answer for answer in answers if not answer.error and not answer.is_cut]
    num_output = sum(answer.num_tokens for answer in over)
    ratio = sum(answer.num_prompt_tokens for answer in over) / num_output if num_output else 0.0
    spread = (max(rates) - min(rates)) / (max(rates) + min(rates)) if max(rates) else 0.0
    return Speed(concurrency, output, output * ratio, prompts, spread, workers)


def faults(answers: list[Answer], before: int, after: int) -> list[str]:
    """What makes a price less than it seems, in words."""
    failed = [answer.error for answer in answers if answer.error]
    cut = sum(answer.is_cut for answer in answers)
    ended = sum(answer.finish_reason == "stop" for answer in answers)
    return [
        *([f"{len(failed)} of {len(answers)} answers failed: {failed[0]}"] if failed else []),
        *([f"{cut} of {len(answers)} answers were cut when the time was over"] if cut else []),
        *([f"{ended} of {len(answers)} answers ended before they were as long as asked"] if ended else []),
        *([f"the endpoint scaled from {before} to {after} workers"] if before != after else []),
        *([f"{after} workers shared the load; the prices are for all of them"] if after > 1 else []),
    ]


async def num_workers(target: Target) -> int:
    """Of a RunPod endpoint, that can take requests now; elsewhere one."""
    endpoint = urlsplit(target.url).path.removesuffix("/openai")
    if not endpoint.startswith("/v2/"):
        return 1
    root = target.url[: target.url.index("/v2/")]
    workers: dict[str, int] = json.loads(await get(root, f"{endpoint}/health", target.key))["workers"]
    return max(1, workers.get("running", 0) + workers.get("idle", 0))


@contextmanager
def worker_here(args: argparse.Namespace) -> Iterator[Target]:
    """A worker that was started for this, with its start measured. Raises NotHereError."""
    model = args.model or demo_model()
    read(model)
    chats = max(args.concurrency)
    with tempfile.TemporaryDirectory() as logs:
        n_ctx = room_for(MOST_TOKENS, chats)
        load = Load(model, n_ctx, chats, num_usable_cores(), FOLDER, Path(logs), MOST_TOKENS)
        with spawned(WORKER, load) as server:
            start = asyncio.run(seconds_to_first_text(server))
            yield Target(server.url, "", {}, str(circumstances(model, load.threads)), start)


def endpoint(args: argparse.Namespace) -> Target:
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    more = {"model": args.name, **({"ignore_eos": None} if args.plain else {})}
    return Target(args.url.rstrip("/").removesuffix("/v1"), key, more, f"{args.name} at {args.url}", None)


async def wake(target: Target) -> None:
    """One short answer, so that no cold start is measured. Raises NotHereError."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **target.more}
    asked = ask(target.url, CHAT, {name: value for name, value in body.items() if value is not None}, target.key)
    answer = await waited_for("waiting for the first answer: a worker may have to start", asked)
    if answer.error:
        raise NotHereError(answer.error)
    sys.stdout.write(f"the first answer's first text came after {answer.first:.1f} s\n")


# The table


def report(measured: Measured, waking: Waking, prices: Prices, measured_gpu: str) -> str:
    speeds = measured.speeds
    lines = [
        measured.words.rstrip("\n"),
        f"measured {measured.date}; prices of {prices.date}: {prices.source}",
        "",
        f"{'chats':>5}{'out/s':>9}{'spread':>8}{'in/s':>9}{'in:out':>8}{'prompts alone/s':>17}{'workers':>9}",
        *map(speed_line, speeds),
        *(f"Note: {warning}" for warning in measured.warnings),
        "",
        f"$ per million tokens; each waking {waking.start:.0f} s of start, {waking.busy:.0f} s of work, "
        f"{waking.idle:.0f} s of waiting: the cold start is {100 * waking.cold_share:.1f} % of the bill",
        f"{'':24}{'':>8}" + "".join(f"{chats(found):^27}" for found in speeds),
        f"{'GPU':24}{'$/h':>8}" + f"{'in':>9}{'out':>9}{'blended':>9}" * len(speeds) + f"{'active from':>13}",
        *(gpu_line(gpu, speeds, waking, measured_gpu) for gpu in prices.gpus),
        *unpriced(speeds, waking),
        "",
        *(["* the GPU measured; other rows: the same tokens/s at their price"] if measured_gpu else [NO_GPU]),
        "active from: the part of a day that must be billed before an active worker is cheaper than a flex one",
        *(share_line(waking._replace(busy=busy)) for busy in BURSTS),
    ]
    return "\n".join(lines) + "\n"


NO_GPU = (
    "no row is a measurement: the tokens/s are this machine's, at other machines' prices (--gpu says what was measured)"
)


def speed_line(found: Speed) -> str:
    ratio = found.input / found.output if found.output else 0.0
    return (
        f"{found.concurrency:>5}{found.output:>9,.1f}{f'±{100 * found.spread:.0f}%':>8}{found.input:>9,.1f}"
        f"{ratio:>8.2f}{found.prompts:>17,.0f}{found.workers:>9}"
    )


def gpu_line(gpu: Gpu, speeds: list[Speed], waking: Waking, measured_gpu: str) -> str:
    is_measured = measured_gpu and measured_gpu in gpu.name.split(", ")
    active = break_even(gpu)
    cells = "".join(cost_cells(gpu.flex, found, waking) for found in speeds)
    return f"{gpu.name + (' *' if is_measured else ''):24}{3600 * gpu.flex:>8.2f}{cells}" + (
        f"{100 * active:>11.0f} %" if active is not None else ""
    )


def cost_cells(price: float, found: Speed, waking: Waking) -> str:
    try:
        prices = cost(price, found, waking)
    except ValueError:
        return f"{'-':>9}" * 3
    return f"{prices.input:>9.3f}{prices.output:>9.3f}{prices.blended:>9.3f}"


def unpriced(speeds: list[Speed], waking: Waking) -> list[str]:
    """Why some numbers of chats have no price."""
    lines = []
    for found in speeds:
        try:
            cost(1.0, found, waking)
        except ValueError as error:
            lines.append(f"{chats(found)}: {error}")
    return lines


def chats(found: Speed) -> str:
    return "1 chat" if found.concurrency == 1 else f"{found.concurrency} chats"


def share_line(waking: Waking) -> str:
    return (
        f"{waking.busy:>6,.0f} s of work: billed {waking.billed / waking.busy:.2f} times its price, "
        f"{100 * waking.cold_share:.1f} % of it the cold start, {100 * waking.idle_share:.1f} % waiting"
    )


# The command


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help=f"an OpenAI base URL, with /v1; its key is {' or '.join(KEYS)}")
    parser.add_argument("--name", default="llama", help="the model's name there")
    parser.add_argument("--plain", action="store_true", help="only OpenAI's own fields: without ignore_eos")
    parser.add_argument("--model", type=Path, help="a GGUF file for a worker here; the demo model if not given")
    parser.add_argument("--from", dest="source", type=Path, help="price what --json has kept; measure nothing")
    parser.add_argument("--concurrency", type=lambda text: list(map(int, text.split(","))), default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each closed loop; half of it for prompts alone")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--gpu", default="", help="the one measured, as gpu_prices.json or --price has it")
    parser.add_argument("--price", type=price_of, help="of --gpu too: dollars an hour, or with /s a second")
    parser.add_argument("--active", type=price_of, help="the same of an active worker")
    parser.add_argument("--prices", type=Path, default=PRICES, help="the file of prices")
    parser.add_argument("--start", type=float, help=f"billed seconds of a cold start; as measured, or {START:g}")
    parser.add_argument("--busy", type=float, default=300.0, help="seconds of work for each start")
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of waiting: the endpoint's idle timeout")
    parser.add_argument("--json", type=Path, help="keep the measurement here")
    return parser.parse_args(argv)


def found(args: argparse.Namespace) -> Measured:
    """Measured now or before. Raises NotHereError."""
    if args.source:
        return Measured.from_json(args.source.read_text())
    if args.url:
        target = endpoint(args)
        asyncio.run(wake(target))
        return asyncio.run(measure(target, args))
    with worker_here(args) as target:
        return asyncio.run(measure(target, args))


def main() -> None:
    args = parse(sys.argv[1:])
    prices = read_prices(args.prices)
    if args.price:
        own = Gpu(args.gpu or "--price", None, args.price, args.active)
        prices = prices._replace(gpus=[*(gpu for gpu in prices.gpus if gpu.name != own.name), own])
    try:
        measured = found(args)
    except (NotHereError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    start = args.start if args.start is not None else measured.start if measured.start is not None else START
    sys.stdout.write(report(measured, Waking(start, args.busy, args.idle), prices, args.gpu))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(measured.json())


if __name__ == "__main__":
    main()
