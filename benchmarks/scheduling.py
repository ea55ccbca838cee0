"""What scheduling a step costs by itself, in Python, with many prompts running and waiting: no model, no threads.

    python benchmarks/scheduling.py --running 64 --waiting 256 --prompt 2000

There are as many tenants as prompts run. A prompt is a frame that all have, its tenant's system prompt, and some tokens
of its own. First one of each tenant is computing that, and all others wait for it; then all running ones generate, and
as many of those that waited are admitted at once. The best of some steps, in milliseconds.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.scripted import Letters, NoMemory  # the path comes first
from handler.engine.cache.split_cache import SplitCache
from handler.engine.plan import MAX_SLOTS
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import SampledToken, Sequence

FRAME = 20  # tokens that all prompts begin with, as those of a chat template
OWN = 50  # at a prompt's end
STEPS = 20


def prompt(rng: random.Random, system: list[int], num_tokens: int) -> list[int]:
    own = rng.choices(range(1000, 150_000), k=min(OWN, num_tokens - FRAME))
    return [*range(FRAME), *system[: num_tokens - FRAME - len(own)], *own]


def create(args: argparse.Namespace, max_batch_tokens: int) -> Scheduler:
    """With no more room than for those that are to run."""
    num_slots = min(MAX_SLOTS, 4 * args.running)
    cache = SplitCache(NoMemory(is_unified=False), num_slots=num_slots, num_cells=num_slots * 2 * args.prompt)
    scheduler = Scheduler(cache, Limits(args.running, max_batch_tokens, max_prompt_tokens=max_batch_tokens))
    rng = random.Random(1)
    systems = [rng.choices(range(1000, 150_000), k=args.prompt) for _ in range(args.running)]
    for number in range(args.running + args.waiting):
        token_ids = prompt(rng, systems[number % args.running], args.prompt)
        params = SamplingParams(max_tokens=args.prompt)
        scheduler.add(Sequence(token_ids, params, vocabulary=Letters(), max_num_tokens=2 * args.prompt))
    return scheduler


def step(scheduler: Scheduler) -> float:
    """The seconds that scheduling took."""
    started = time.perf_counter()
    batch = scheduler.schedule()
    seconds = time.perf_counter() - started
    scheduler.postprocess(batch, [[SampledToken(1)] for _ in batch.sampling])
    return seconds


def measure_waiting(args: argparse.Namespace) -> float:
    """While there is room, and every waiting prompt waits for a prefix."""
    part = args.prompt // STEPS  # so that none is done before the last step
    scheduler = create(args, part)
    step(scheduler)
    scheduler.limits = Limits(2 * args.running, part, part)
    times = [step(scheduler) for _ in range(STEPS // 2)]
    assert len(scheduler.waiting) == args.waiting
    return min(times)


def measure_admission(args: argparse.Namespace) -> float:
    """Of all that wait, at once, by a cache that holds their tenants' prompts."""
    best = 1e9
    for _ in range(3):
        scheduler = create(args, 64 * args.running)
        while any(sequence.num_pending_tokens > 1 for sequence in scheduler.running) or not scheduler.running:
            step(scheduler)
        scheduler.limits = Limits(2 * args.running, 64 * args.running, 64 * args.running)
        best = min(best, step(scheduler))
        assert len(scheduler.running) == 2 * args.running
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=64)
    parser.add_argument("--waiting", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of each prompt")
    args = parser.parse_args()
    sys.stdout.write(f"a step in which {args.waiting} wait for a prefix   {1000 * measure_waiting(args):8.2f} ms\n")
    sys.stdout.write(f"admission of {args.running}, each from the cache   {1000 * measure_admission(args):8.2f} ms\n")


if __name__ == "__main__":
    main()
