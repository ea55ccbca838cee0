"""Whether a seeded request gives the same text alone and among other chats.

    python benchmarks/seeded.py --requests 10                      the demo model, on the CPU
    python benchmarks/seeded.py --model m.gguf --requests 50
    python benchmarks/seeded.py --url http://127.0.0.1:8001        a worker that runs already
    SEEDED=exact MAX_MODEL_LEN=2048 python benchmarks/seeded.py    the setting that promises equal texts

Each request is asked twice: alone on the worker, and again while others chat in a closed loop (benchmarks/people.py),
so prompts come in beside it and its own prompt may be in the cache. The texts are compared byte by byte; the status is
1 if one differs. What the seeded ones and the others get in tokens/s shows what SEEDED=exact costs: run both.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.circumstances import circumstances  # the path comes first
from benchmarks.client import CHAT, Answer, ask
from benchmarks.people import MOST_TOKENS, closed_loop, question
from benchmarks.progress import Progress
from benchmarks.servers import FOLDER, WORKER, Load, NotHereError, cells, spawned
from benchmarks.throughput import demo_model
from handler.cpu_quota import num_usable_cores

FOREVER = 1e6  # seconds; the others stop when they are cancelled


class Rates(NamedTuple):
    """Tokens of answers, a second. The others' are of answers that ended, over the time of the seeded ones."""

    alone: float
    among: float
    others: float


class Pair(NamedTuple):
    """One request's two texts."""

    alone: str
    among: str
    num_cached: int  # prompt tokens that the second time took from the cache

    @property
    def num_equal(self) -> int:
        """Characters that the texts begin with in common."""
        return len(list(takewhile(lambda two: two[0] == two[1], zip(self.alone, self.among, strict=False))))

    @property
    def is_equal(self) -> bool:
        return self.alone == self.among


def body(number: int, tokens: int) -> dict[str, Any]:
    return {**question(random.Random(f"seeded {number}")), "max_tokens": tokens, "seed": number}


async def compare(url: str, args: argparse.Namespace) -> tuple[list[Pair], Rates]:
    """Raises ValueError for an answer that failed."""
    progress = Progress(2 * args.requests)

    async def texts(what: str) -> list[Answer]:
        answers = []
        for number in range(args.requests):
            progress.begin(what)
            answers.append(await ask(url, CHAT, body(number, args.tokens)))
            if answers[-1].error:
                raise ValueError(answers[-1].error)
            progress.done()
        return answers

    alone = await texts("alone")
    ended: list[Answer] = []
    others = asyncio.create_task(closed_loop(url, args.others, FOREVER, seed=1, answers=ended))
    try:
        among = await texts(f"among {args.others} others")
    finally:
        others.cancel()
        await asyncio.gather(others, return_exceptions=True)
        progress.close()
    pairs = [Pair(one.text, two.text, two.num_cached_tokens) for one, two in zip(alone, among, strict=True)]
    seconds = sum(answer.whole for answer in among)
    rates = Rates(rate(alone), rate(among), sum(answer.num_tokens for answer in ended) / seconds)
    return pairs, rates


def rate(answers: list[Answer]) -> float:
    """Of answers one after another, prompts in their time."""
    return sum(answer.num_tokens for answer in answers) / sum(answer.whole for answer in answers)


def report(pairs: list[Pair], rates: Rates, others: int) -> str:
    different = [(number, pair) for number, pair in enumerate(pairs) if not pair.is_equal]
    lines = [
        f"{len(pairs) - len(different)} of {len(pairs)} texts are equal, byte by byte, alone and among {others} "
        "others; "
        f"{sum(pair.num_cached for pair in pairs)} prompt tokens of the second time came from the cache",
        f"tokens/s: seeded {rates.alone:.0f} alone and {rates.among:.0f} among others, which had {rates.others:.0f}",
        *(
            f"seed {number}: different after {pair.num_equal} of {len(pair.alone)} characters"
            for number, pair in different
        ),
    ]
    return "\n".join(lines) + "\n"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a worker that runs, without /v1; one is started if not given")
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--others", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the texts here")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> tuple[list[Pair], Rates]:
    if args.url:
        return asyncio.run(compare(args.url, args))
    model = args.model or demo_model()
    chats = args.others + 1
    sys.stdout.write(f"{circumstances(model, num_usable_cores())}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as logs:
        n_ctx = cells(MOST_TOKENS) * 2 * chats  # for as many slots as the worker has at most
        load = Load(model, n_ctx, chats, num_usable_cores(), FOLDER, Path(logs), MOST_TOKENS)
        with spawned(WORKER, load) as server:
            server.wait()
            return asyncio.run(compare(server.url, args))


def main() -> None:
    args = parse(sys.argv[1:])
    try:
        pairs, rates = measure(args)
    except (NotHereError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(report(pairs, rates, args.others))
    if args.json:
        args.json.write_text(json.dumps({"pairs": [pair._asdict() for pair in pairs], "rates": rates._asdict()}))
    if not all(pair.is_equal for pair in pairs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
