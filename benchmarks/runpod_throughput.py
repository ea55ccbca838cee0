"""Tokens a second through RunPod and over HTTP, from the same worker with the same streams.

    python benchmarks/runpod_throughput.py
    python benchmarks/runpod_throughput.py --streams 64 --step-ms 16

Both are real processes, once with RunPod's SDK against the emulated platform, once as `serve`. A step of the model
takes a fixed time. Times count from the first request to the last token; for jobs also to the result the SDK posts.
"""

import argparse
import asyncio
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp  # the path comes first

from benchmarks.client import CHAT, ask
from tests.contract.stage import ODD_WORKER, Model, Stage, stage
from tests.runpod_emulator import Fault
from tests.tiny_models import write_tiny_model

LOOK = 0.1  # seconds between two looks at a worker that starts


class Result(NamedTuple):
    """Tokens a second; posts to the platform."""

    to_last_token: float
    to_result: float
    num_posts: int


def body(args: argparse.Namespace, number: int) -> dict[str, object]:
    return {
        "model": "model",
        "messages": [{"role": "user", "content": f"{number}: hello"}],
        "max_tokens": args.tokens,
        "ignore_eos": True,
        "stream": True,
    }


def environment(args: argparse.Namespace) -> dict[str, str]:
    return {
        "ODD_STEP_SECONDS": str(args.step_ms / 1000),
        "MAX_NUM_SEQS": str(args.streams),
        "N_CTX": str(args.streams * 2 * (args.tokens + 128)),
        "LOG_LEVEL": "INFO",
    }


async def through_runpod(here: Stage, args: argparse.Namespace) -> Result:
    first_event = len(here.log.events)
    job = {"openai_route": "/v1/chat/completions"}
    inputs = [{**job, "openai_input": body(args, number)} for number in range(args.streams)]
    job_ids = await asyncio.gather(*map(here.run, inputs))
    await asyncio.gather(*map(here.ends, job_ids))
    events = here.log.events[first_event:]
    started = min(event.time for event in events if event.name == "submitted")
    chunks = [event.time for event in events if event.name == "chunk"]
    ended = max(event.time for event in events if event.name == "ended")
    num_tokens = args.streams * args.tokens
    return Result(num_tokens / (chunks[-1] - started), num_tokens / (ended - started), len(chunks) + args.streams)


async def over_http(url: str, args: argparse.Namespace) -> Result:
    started = time.perf_counter()
    answers = await asyncio.gather(*(ask(url, CHAT, body(args, number)) for number in range(args.streams)))
    assert not any(answer.error for answer in answers), answers[0].error
    num_tokens = sum(answer.num_tokens for answer in answers)
    rate = num_tokens / (max(answer.arrivals[-1] for answer in answers) - started)
    return Result(rate, rate, 0)


@asynccontextmanager
async def serving(model: Model, args: argparse.Namespace) -> AsyncIterator[str]:
    """The address of the same worker as a plain server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *ODD_WORKER, "serve", "--port", str(port), env={**model.env, **environment(args)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while not await _answers(url):  # noqa: ASYNC110  # of a process
            await asyncio.sleep(LOOK)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/ping") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def median(results: list[Result]) -> Result:
    return Result(*(statistics.median(values) for values in zip(*results, strict=True)))


async def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model(write_tiny_model(Path(folder) / "tiny.gguf", "llama"), Path(folder))
        sys.stdout.write(
            f"{args.streams} streams of {args.tokens} tokens, {args.step_ms} ms a step; "
            f"{1000 * args.latency:.0f} ms a post; median of {args.repeat}\n\n"
        )
        async with stage(model, command=ODD_WORKER, env=environment(args)) as here, serving(model, args) as url:
            for call in ("job-stream", "job-done"):
                here.emulator.faults.add(Fault(call, latency=args.latency))
            await here.worker()
            await over_http(url, args)  # a first time, for both
            await through_runpod(here, args)
            pairs = [(await over_http(url, args), await through_runpod(here, args)) for _ in range(args.repeat)]
    http, runpod = (median(list(results)) for results in zip(*pairs, strict=True))
    ideal = 1000 * args.streams / args.step_ms
    sys.stdout.write(f"{'':12}{'tokens/s':>10}{'of HTTP':>9}{'of the model':>14}{'to the result':>15}{'posts':>7}\n")
    for name, result in (("HTTP", http), ("RunPod", runpod)):
        ratios = f"{result[0] / http[0]:>9.3f}{result[0] / ideal:>14.3f}{result.to_result:>15.1f}"
        sys.stdout.write(f"{name:12}{result.to_last_token:>10.1f}{ratios}{result.num_posts:>7.0f}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--latency", type=float, default=0.02, metavar="SECONDS")
    parser.add_argument("--repeat", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
