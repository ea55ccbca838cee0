"""Where the time of an engine step goes, per concurrency: the engine in this process, without HTTP.

    python benchmarks/step.py --concurrency 1,4,8,16
    python benchmarks/step.py --scripted-ms 10 --concurrency 64      a model that takes a fixed time: our own cost
    python benchmarks/step.py --stale 30000                          with so many tokens of old conversations cached

The settings are the worker's, from the environment. Mean milliseconds of the phases, and of all of them, over the steps
in which all generate; tokens/s are of the whole run, prompts and all.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scripted import ScriptedRunner, create_engine  # the path comes first
from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.step_times import PHASES
from handler.settings import Settings

TOKEN_ID = 1000  # prompts are numbers from here on: tokens of any vocabulary, but of a scripted one's


class Row(NamedTuple):
    """One run. Seconds; of the phases, for each step."""

    concurrency: int
    num_steps: int
    total: float  # from the first request to the last token
    rate: float  # tokens a second, prompts and all
    phases: dict[str, float]

    @property
    def step(self) -> float:
        return sum(self.phases.values())


def prompt(number: int, num_tokens: int, vocabulary: int) -> list[int]:
    """Tokens that no other prompt begins with."""
    first = min(TOKEN_ID, vocabulary // 2)
    return [first + (number * 7919 + place * 31) % (vocabulary - first) for place in range(num_tokens)]


class Bench:
    def __init__(self, engine: Engine, args: argparse.Namespace) -> None:
        self._engine = engine
        self._args = args
        self._num_asked = 0

    async def ask(self, num_prompt_tokens: int, num_tokens: int) -> int:
        """The number of tokens of one answer, read as it comes."""
        self._num_asked += 1
        params = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
        token_ids = prompt(self._num_asked, num_prompt_tokens, self._engine.runner.vocabulary.num_tokens)
        generation = await self._engine.generate([token_ids], params)
        async for outputs in generation:
            for output in outputs.values():
                if output.usage:
                    return output.usage.num_completion_tokens
        return 0

    async def fill_cache(self, num_tokens: int) -> None:
        """Leave finished conversations behind."""
        while self._engine.stats.num_used_cells < num_tokens and self._engine.stats.num_cached_slots < 64:
            await self.ask(min(2000, num_tokens), 1)

    async def run(self, concurrency: int) -> Row:
        asked = time.perf_counter()
        tasks = [asyncio.create_task(self.ask(self._args.prompt, self._args.tokens)) for _ in range(concurrency)]
        while not any(task.done() for task in tasks) and (  # noqa: ASYNC110  # no event
            self._engine.stats.num_waiting or self._engine.stats.num_running < concurrency
        ):
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)  # the last prompts' steps are over
        before = self._engine.step_times()
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        after = self._engine.step_times()
        num_tokens = sum(await asyncio.gather(*tasks))
        total = time.perf_counter() - asked
        num_steps = after["wait"].num_times - before["wait"].num_times
        if not num_steps:
            raise SystemExit(f"{concurrency} answers were over before all of them generated: ask for more --tokens.")
        phases = {phase: (after[phase].total - before[phase].total) / num_steps for phase in PHASES}
        return Row(concurrency, num_steps, total, num_tokens / total, phases)


def open_engine(args: argparse.Namespace) -> Engine:
    concurrency = max(args.concurrency)
    if args.scripted_ms is not None:
        return create_engine(ScriptedRunner(args.scripted_ms / 1000), concurrency)
    settings = Settings.from_env(dict(os.environ) | {"MAX_NUM_SEQS": str(concurrency)})
    from handler.engine.llama import sampler_chain  # noqa: PLC0415  # llama.cpp is not needed for a script
    from handler.loading import load_model, start_engine  # noqa: PLC0415

    if args.whole:
        sampler_chain._num_kept = lambda params: None
    return start_engine(load_model(settings), max_queue=1000)


def show(rows: list[Row]) -> str:
    names = [*PHASES, "step"]
    lines = [f"{'concurrent':>10}{'tokens/s':>10}{'steps/s':>9}" + "".join(f"{name:>12}" for name in names)]
    for row in rows:
        times = [*(row.phases[phase] for phase in PHASES), row.step]
        cells = "".join(f"{1000 * seconds:>12.3f}" for seconds in times)
        lines.append(f"{row.concurrency:>10}{row.rate:>10.1f}{1 / row.step:>9.1f}{cells}")
    return "\n".join(lines) + "\n"


async def measure(engine: Engine, args: argparse.Namespace) -> list[Row]:
    bench = Bench(engine, args)
    await bench.ask(args.prompt, 2)
    await bench.fill_cache(args.stale)
    return [await bench.run(concurrency) for concurrency in args.concurrency for _ in range(args.repeat)]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 8])
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--stale", type=int, default=0, help="tokens of finished conversations in the cache")
    parser.add_argument("--whole", action="store_true", help="samplers get the whole vocabulary, as they once did")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scripted-ms", type=float, help="no model, but steps of this length")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    logging.basicConfig(level="WARNING")
    engine = open_engine(args)
    rows = asyncio.run(measure(engine, args))
    sys.stdout.write(show(rows))
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in rows]))
    engine.close()


if __name__ == "__main__":
    main()
