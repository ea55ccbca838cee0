"""How a stream gets through RunPod: this worker, and one that yields every token, as most do.

    python benchmarks/runpod_stream.py

Both are real processes with RunPod's SDK, against the emulated platform with 100 ms a post. The model takes 10 ms a
token. Times count from when the SDK calls the handler, to when the platform has what was posted.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.contract.stage import NAIVE_WORKER, ODD_WORKER, Model, Stage, stage  # the path comes first
from tests.runpod_emulator import Fault
from tests.tiny_models import write_tiny_model

WORKERS = {"this worker": ODD_WORKER, "a worker that yields every token": NAIVE_WORKER}


class Result(NamedTuple):
    """Seconds, but for the number of posts, which has job-done in it."""

    num_posts: float
    first: float
    last: float
    done: float


async def measure(here: Stage, num_tokens: int) -> Result:
    first_event = len(here.log.events)
    job_id = await here.run({"prompt": "hello", "temperature": 0, "max_tokens": num_tokens, "stream": True})
    await here.ends(job_id)
    events = here.log.events[first_event:]
    start = next(event.time for event in events if f"job {job_id}: started" in event.detail)
    chunks = [event.time - start for event in events if event.name == "chunk"]
    done = next(event.time - start for event in events if event.name == "ended")
    return Result(len(chunks) + 1, chunks[0], chunks[-1], done)


async def measure_worker(command: tuple[str, ...], model: Model, args: argparse.Namespace) -> Result:
    async with stage(model, command=command, env={"ODD_STEP_SECONDS": "0.01"}) as here:
        for call in ("job-stream", "job-done"):
            here.emulator.faults.add(Fault(call, latency=args.latency))
        await here.worker()
        results = [await measure(here, args.tokens) for _ in range(args.repeat)]
    return Result(*map(statistics.median, zip(*results, strict=True)))


async def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model(write_tiny_model(Path(folder) / "tiny.gguf", "llama"), Path(folder))
        title = f"{args.tokens} tokens, 10 ms each; {1000 * args.latency:.0f} ms a post; median of {args.repeat}"
        sys.stdout.write(f"{title}\n\n{'':34}{'posts':>6}{'first':>9}{'last':>9}{'done':>9}\n")
        for name, command in WORKERS.items():
            result = await measure_worker(command, model, args)
            times = "".join(f"{seconds:>7.2f} s" for seconds in result[1:])
            sys.stdout.write(f"{name:34}{result.num_posts:>6.0f}{times}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--latency", type=float, default=0.1, metavar="SECONDS")
    parser.add_argument("--repeat", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
