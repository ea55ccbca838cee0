"""What the context for prompts computes by itself: packed parts, by size, and what handing a prompt over costs.

    MODEL=m.gguf python benchmarks/prefill.py --parts 64,128,256,512      on a GPU with room for it

Rows: lengths of the prompts (all 128, 130 to 140, people's), tokens of a part, prompt tokens a second with and without
the hand-over, parts computed, and the milliseconds of taking a prompt's state and of setting it in the other context.
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.people import PROMPT_WORDS  # the path comes first
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.prefill_context import LlamaPrefillContext
from handler.engine.prefill_queue import Prefill, PrefillQueue
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.loading import load_model
from handler.settings import Settings

FRAME = 32  # tokens of a chat's template around a question


class Row(NamedTuple):
    lengths: str
    part: int
    rate: float  # tokens a second, states taken meanwhile
    rate_alone: float  # without taking them
    num_parts: int
    take: float  # ms a prompt
    restore: float  # ms a prompt


def lengths(source: random.Random, number: int) -> dict[str, list[int]]:
    return {
        "128": [128] * number,
        "130-140": [source.randint(130, 140) for _ in range(number)],
        "people's": [PROMPT_WORDS.draw(source) + FRAME for _ in range(number)],
    }


def measure(runner: ModelRunner, context: LlamaPrefillContext, name: str, sizes: list[int], part: int) -> Row:
    queue = PrefillQueue(context.num_streams, context.num_cells)
    for number, size in enumerate(sizes):
        token_ids = [(number * 7919 + place * 31) % runner.vocabulary.num_tokens for place in range(size)]
        sequence = Sequence(token_ids, SamplingParams(), vocabulary=runner.vocabulary, max_num_tokens=size + 1)
        queue.add(Prefill(sequence, token_ids))
    begun, num_parts, takes, restores = time.perf_counter(), 0, [], []
    while pieces := queue.next_part(part):
        context.compute(pieces)
        num_parts += 1
        for prefill, stream, _, token_ids in pieces:
            prefill.num_computed += len(token_ids)
            if prefill.num_left:
                continue
            queue.remove(prefill)
            began = time.perf_counter()
            state = context.state(stream)
            taken = time.perf_counter()
            if not runner.memory.restore(0, state):
                raise SystemExit("The decoding context refuses a state.")
            takes.append(taken - began)
            restores.append(time.perf_counter() - taken)
    seconds = time.perf_counter() - begun - sum(restores)
    num_tokens = sum(sizes)
    take, restore = (1000 * statistics.median(values) for values in (takes, restores))
    return Row(name, part, num_tokens / seconds, num_tokens / (seconds - sum(takes)), num_parts, take, restore)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: [int(part) for part in text.split(",")], default=[64, 128, 512])
    parser.add_argument("--prompts", type=int, default=64)
    args = parser.parse_args()
    most = str(max(args.parts))
    settings = Settings.from_env(
        dict(os.environ) | {"PREFILL_PART": most, "N_UBATCH": os.environ.get("N_UBATCH", most)}
    )
    model = load_model(settings)
    if (context := model.prefill_context) is None:
        raise SystemExit("There is no context for prompts: it needs a GPU and cells for each sequence.")
    sys.stdout.write(f"{'lengths':>10}{'part':>6}{'tokens/s':>10}{'alone':>8}{'parts':>7}{'take':>7}{'set':>7}\n")
    for part in [args.parts[0], *args.parts]:  # the first one warms up
        for name, sizes in lengths(random.Random(1), args.prompts).items():
            row = measure(model.runner, context, name, sizes, part)
            sys.stdout.write(
                f"{row.lengths:>10}{row.part:>6}{row.rate:>10.0f}{row.rate_alone:>8.0f}{row.num_parts:>7}"
                f"{row.take:>7.2f}{row.restore:>7.2f}\n"
            )
            sys.stdout.flush()
    context.close()
    model.runner.close()


if __name__ == "__main__":
    main()
