"""RunPod on this machine, with a worker of this repository behind it.

python -m tests.runpod_emulator --port 9000
python -m tests.runpod_emulator --port 9000 --env MODEL=/models/model.gguf --max-workers 2
python -m tests.runpod_emulator --port 9000 --load-balancing
python -m tests.runpod_emulator --port 9000 --worker-by-hand
"""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence

from . import Emulator, EndpointSettings, Event, Fault, Settings, Worker

ENDPOINT = "ep"


def main(argv: Sequence[str] | None = None) -> None:
    asyncio.run(run(parse(argv)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.runpod_emulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--key", default="emulator", help="the client's API key")
    parser.add_argument("--load-balancing", action="store_true", help="a load-balancing endpoint instead of a queue")
    parser.add_argument("--min-workers", type=int, default=0)
    parser.add_argument("--max-workers", type=int, default=1)
    parser.add_argument("--idle-timeout", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--cold-start", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--flashboot", action="store_true", help="freeze idle workers instead of stopping them")
    parser.add_argument("--latency", type=float, default=0, metavar="SECONDS", help="of every post of a worker")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="for the workers")
    parser.add_argument("--worker-by-hand", action="store_true", help="start none; print the environment for one")
    parser.add_argument("command", nargs="*", help="starts a worker; `python -m handler` if not given")
    return parser.parse_args(argv)


async def run(args: argparse.Namespace) -> None:
    emulator = Emulator(Settings(client_key=args.key), port=args.port)
    emulator.log.listener = show
    for call in ("job-stream", "job-done"):
        emulator.faults.add(Fault(call, latency=args.latency))
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with emulator:
        emulator.add_endpoint(ENDPOINT, endpoint_settings(args))
        sys.stdout.write(usage(emulator, args))
        sys.stdout.flush()
        await stopped.wait()


def endpoint_settings(args: argparse.Namespace) -> EndpointSettings:
    default = [sys.executable, "-m", "handler", *(["serve"] if args.load_balancing else [])]
    return EndpointSettings(
        kind="load_balancing" if args.load_balancing else "queue",
        command=() if args.worker_by_hand else tuple(args.command or default),
        env=dict(pair.split("=", maxsplit=1) for pair in args.env),
        min_workers=args.min_workers,
        max_workers=args.max_workers,
        requests_per_worker=16,
        idle_timeout=args.idle_timeout,
        cold_start=args.cold_start,
        flashboot=args.flashboot,
    )


def usage(emulator: Emulator, args: argparse.Namespace) -> str:
    """How to talk to it, as lines that can be pasted into a shell."""
    base = f"{emulator.url}/lb/{ENDPOINT}" if args.load_balancing else f"{emulator.url}/v2/{ENDPOINT}/openai"
    body = '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "stream": true}'
    lines = [
        f"RunPod, emulated. OpenAI clients: base URL {base}/v1, API key {args.key}. Try it:",
        "",
        f"  curl -N {base}/v1/chat/completions -H 'Authorization: Bearer {args.key}' \\",
        f"    -H 'Content-Type: application/json' -d '{body}'",
        "",
    ]
    if args.worker_by_hand:
        env = emulator.environment(emulator.endpoints[ENDPOINT], Worker("by-hand", 0, 0))
        pairs = " ".join(f"{key}={shlex.quote(value)}" for key, value in env.items())
        lines += ["A worker, in another shell:", "", f"  {pairs} python -m handler", ""]
    return "\n".join(lines) + "\n"


def show(event: Event) -> None:
    sys.stdout.write(f"{event}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
