"""What drafts bring: tokens/s without them and with prompt lookup; the engine in this process, without HTTP.

    python benchmarks/speculation.py --concurrency 1,2,4,8
    python benchmarks/speculation.py --modes off,lookup --drafted 4,8,16 --tasks copy

Two tasks: free text at temperature 0.8, and code that is to be repeated with one name changed, at temperature 0. The
settings are the worker's, from the environment.

Tokens/s are of the time in which all generate: from the last first token to the first last one. "of off" compares with
the same task and concurrency without drafts in the same run, which is what counts on a machine that others use too.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from handler.chat.template import model_template  # the path comes first
from handler.engine import plan
from handler.engine.engine import Engine
from handler.engine.generation import Generation
from handler.engine.sampling_params import SamplingParams
from handler.loading import LoadedModel, load_model, start_engine
from handler.settings import Settings

FREE = (
    "Tell me a story about a lighthouse keeper.",
    "How does a bicycle stay upright?",
    "What should I see in Lisbon in two days?",
    "Explain photosynthesis to a child.",
    "Why did the Roman empire fall?",
    "Describe your favourite recipe, step by step.",
    "What is the difference between a virus and a bacterium?",
    "Write a letter to a friend who has moved abroad.",
)
CODE = """\
class Inventory:
    def __init__(self, name):
        self.name = name
        self.items = {}

    def add(self, item, count=1):
        if count < 1:
            raise ValueError("count must be positive")
        self.items[item] = self.items.get(item, 0) + count

    def remove(self, item, count=1):
        if self.items.get(item, 0) < count:
            raise KeyError(item)
        self.items[item] -= count
        if self.items[item] == 0:
            del self.items[item]

    def total(self):
        return sum(self.items.values())
"""
COPY = tuple(
    f"Rename the class Inventory to {name}. Answer with the whole code and nothing else.\n\n```python\n{CODE}```"
    for name in ("Stock", "Store", "Depot", "Shelf", "Basket", "Garage", "Cellar", "Pantry")
)
TASKS = {
    "free": (FREE, SamplingParams(temperature=0.8, ignore_eos=True)),
    "copy": (COPY, SamplingParams(temperature=0, ignore_eos=True)),
}


class Row(NamedTuple):
    """One run."""

    mode: str
    num_drafted_at_once: int
    task: str
    concurrency: int
    rate: float  # tokens a second of all sequences
    num_drafted: int
    num_accepted: int

    @property
    def acceptance(self) -> str:
        return f"{self.num_accepted / self.num_drafted:.2f}" if self.num_drafted else "-"


class Bench:
    def __init__(self, engine: Engine, model: LoadedModel) -> None:
        vocabulary = model.runner.vocabulary
        bos_token, eos_token = vocabulary.bos_token, vocabulary.eos_token
        self._template = model_template(model.runner.chat_template(), bos_token=bos_token, eos_token=eos_token)()
        self._engine = engine

    async def run(self, task: str, concurrency: int, num_tokens: int) -> tuple[float, int, int]:
        """Tokens/s while all generate; tokens drafted and accepted in all."""
        prompts, params = TASKS[task]
        params = replace(params, max_tokens=num_tokens)
        before = self._engine.stats
        asked = [self._ask(prompt, params) for prompt in prompts[:concurrency]]
        generations = await asyncio.gather(*asked)
        sequences = [generation.sequences[0] for generation in generations]
        reading = [asyncio.create_task(read(generation)) for generation in generations]
        while min(sequence.num_completion_tokens for sequence in sequences) < 1:  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.002)
        begun, num_begun = time.perf_counter(), sum(sequence.num_completion_tokens for sequence in sequences)
        await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        seconds = time.perf_counter() - begun
        num_ended = sum(sequence.num_completion_tokens for sequence in sequences)
        await asyncio.gather(*reading)
        after = self._engine.stats
        return (
            (num_ended - num_begun) / seconds,
            after.num_drafted_tokens - before.num_drafted_tokens,
            after.num_accepted_tokens - before.num_accepted_tokens,
        )

    async def _ask(self, prompt: str, params: SamplingParams) -> Generation:
        text = self._template.render([{"role": "user", "content": prompt}])
        return await self._engine.generate([text], params)


async def read(generation: Generation) -> None:
    async for _ in generation:
        pass


class Subject(NamedTuple):
    """An engine with one way of drafting."""

    mode: str
    num_drafted_at_once: int
    engine: Engine
    bench: Bench


def open_subject(mode: str, drafted: int, args: argparse.Namespace, environ: dict[str, str]) -> Subject:
    options = {"SPECULATE": mode, "NUM_DRAFT_TOKENS": str(drafted), "MAX_NUM_SEQS": str(max(args.concurrency))}
    settings = Settings.from_env(environ | options)
    model = load_model(settings)
    engine = start_engine(model, max_queue=100)
    return Subject(mode, drafted, engine, Bench(engine, model))


def measure(subjects: list[Subject], args: argparse.Namespace) -> list[Row]:
    """One after the other at each task and concurrency, so that they share a busy machine's ups and downs."""
    rows = []
    for task in args.tasks:
        for concurrency in args.concurrency:
            runs: dict[Subject, list[Row]] = {subject: [] for subject in subjects}
            for _, subject in product(range(args.repeat), subjects):
                numbers = asyncio.run(subject.bench.run(task, concurrency, args.tokens))
                row = Row(subject.mode, subject.num_drafted_at_once, task, concurrency, *numbers)
                runs[subject].append(row)
                sys.stderr.write(f"{row}\n")
            rows += [max(of_one, key=lambda row: row.rate) for of_one in runs.values()]
    return rows


def show(rows: list[Row]) -> str:
    lines = ["task  chats  mode    drafted  tokens/s  of off  accepted"]
    off = {(row.task, row.concurrency): row.rate for row in rows if row.mode == "off"}
    for row in sorted(rows, key=lambda row: (row.task, row.concurrency)):
        ratio = f"{row.rate / off[row.task, row.concurrency]:.2f}" if off else "-"
        drafted = f"{row.num_drafted_at_once:>7}" if row.mode != "off" else f"{'-':>7}"
        rate = f"{row.rate:>8.1f}  {ratio:>6}  {row.acceptance:>8}"
        lines.append(f"{row.task}  {row.concurrency:>5}  {row.mode:<6}  {drafted}  {rate}")
    return "\n".join(lines) + "\n"


def parse(argv: list[str]) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["off", "lookup"])
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument("--drafted", type=numbers, default=[12], help="tokens drafted at once, at most")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--repeat", type=int, default=2, help="the best of so many runs is shown")
    parser.add_argument("--max-drafting", type=int, help="sequences in a step with drafts; default: the worker's limit")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    logging.basicConfig(level="WARNING")
    environ = dict(os.environ)
    if args.max_drafting:
        plan.MAX_DRAFTING_ON_CPU = plan.MAX_DRAFTING_ON_GPU = args.max_drafting
    kinds = [(mode, n) for mode in args.modes for n in (args.drafted[:1] if mode == "off" else args.drafted)]
    subjects = [open_subject(mode, drafted, args, environ) for mode, drafted in kinds]
    sys.stdout.write(show(measure(subjects, args)))
    for subject in subjects:
        subject.engine.close()


if __name__ == "__main__":
    main()
