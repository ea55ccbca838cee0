"""What a required call of one of 16 tools costs per token, beside free text from prompts of the same length.

    python benchmarks/tools.py                                     the demo model, on the CPU, 8 chats at once
    python benchmarks/tools.py --model m.gguf --chats 32 --rounds 9
    python benchmarks/tools.py --url http://127.0.0.1:8001         a worker that runs already

Both kinds of chats have the tools' descriptions in their prompts: as `tools`, of which one must be called, or as a
system message. All answers of a burst have one length, and each burst is asked twice, with short and with long answers:
the difference of the two times, over that of the lengths, is the time of a token, without prompt and first text. Kinds
and lengths take turns in each round, every second round backwards; the median of the rounds' ratios is what counts.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.circumstances import circumstances  # the path comes first
from benchmarks.client import CHAT, Answer, ask
from benchmarks.people import unique_text
from benchmarks.progress import Progress
from benchmarks.servers import FOLDER, WORKER, Load, NotHereError, room_for, spawned
from benchmarks.throughput import demo_model
from benchmarks.workloads import SAMPLING
from handler.cpu_quota import num_usable_cores

NUM_TOOLS = 16
SHORT = 32  # tokens of the shorter answers: the call's frame and the beginning of its arguments
LONGEST_PROMPT = 3000  # tokens of the tools and a question
FREE, CALLS = "free text", "required calls"
NAMES = (
    *(
        "read_file",
        "write_file",
        "list_directory",
        "search_text",
        "run_command",
        "apply_patch",
        "fetch_page",
        "open_tab",
    ),
    *("create_branch", "commit_files", "run_tests", "format_code", "rename_symbol", "ask_user", "take_note", "finish"),
)


class Pair(NamedTuple):
    """Seconds per token of one round."""

    free: float
    calls: float

    @property
    def ratio(self) -> float:
        return self.calls / self.free


def tools() -> list[dict[str, Any]]:
    """An agent's, whose arguments are a list too long for any answer here."""
    return [{"type": "function", "function": tool(name, number)} for number, name in enumerate(NAMES[:NUM_TOOLS])]


def tool(name: str, number: int) -> dict[str, Any]:
    words = name.replace("_", " ")
    step = {
        "type": "object",
        "properties": {"path": {"type": "string", "maxLength": 40}, "kind": {"enum": ["add", "change", "remove"]}},
        "required": ["path", "kind"],
        "additionalProperties": False,
    }
    return {
        "name": name,
        "description": f"Use this to {words}.",
        "parameters": {
            "type": "object",
            "properties": {
                "steps": {"type": "array", "items": step, "minItems": 64, "maxItems": 64 + number},
            },
            "required": ["steps"],
            "additionalProperties": False,
        },
    }


def body(kind: str, source: random.Random, num_tokens: int) -> dict[str, Any]:
    """A chat whose prompt begins as all others of its kind do."""
    question = {"role": "user", "content": f"{unique_text(source, 24)}. Which steps come next?"}
    common = {**SAMPLING, "max_tokens": num_tokens}
    if kind == CALLS:
        return {**common, "messages": [question], "tools": tools(), "tool_choice": "required"}
    described = "\n".join(json.dumps(tool) for tool in tools())
    return {**common, "messages": [{"role": "system", "content": described}, question]}


async def burst(url: str, kind: str, num_chats: int, num_tokens: int, source: random.Random) -> float:
    """Seconds until the last of the chats has ended. Raises ValueError for an answer that is not as long as it should
    be."""
    bodies = [body(kind, source, num_tokens) for _ in range(num_chats)]
    answers: list[Answer] = list(await asyncio.gather(*(ask(url, CHAT, one) for one in bodies)))
    for answer in answers:
        if answer.error or answer.num_tokens != num_tokens:
            raise ValueError(answer.error or f"an answer to {kind} has {answer.num_tokens} of {num_tokens} tokens")
    return max(answer.ended for answer in answers) - min(answer.started for answer in answers)


async def compare(url: str, args: argparse.Namespace) -> list[Pair]:
    source = random.Random(1)
    cells = [(kind, num_tokens) for kind in (FREE, CALLS) for num_tokens in (SHORT, args.tokens)]
    progress = Progress(len(cells) * args.rounds)
    for kind in (FREE, CALLS):
        await burst(url, kind, 1, SHORT, source)  # its prefix is in the cache, its grammar compiled
    pairs = []
    for number in range(args.rounds):
        seconds = {}
        for kind, num_tokens in cells if number % 2 == 0 else reversed(cells):
            progress.begin(f"{kind}, {args.chats} chats")
            seconds[kind, num_tokens] = await burst(url, kind, args.chats, num_tokens, source)
            progress.done()
        per_token = {
            kind: (seconds[kind, args.tokens] - seconds[kind, SHORT]) / (args.tokens - SHORT) for kind in (FREE, CALLS)
        }
        pairs.append(Pair(per_token[FREE], per_token[CALLS]))
    progress.close()
    return pairs


def report(pairs: list[Pair], num_chats: int) -> str:
    free, calls = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    ratios = sorted(pair.ratio for pair in pairs)
    return (
        f"{num_chats} chats, {NUM_TOOLS} tools, ms per token of each chat: {FREE} {free:.2f}, {CALLS} {calls:.2f}; "
        f"{statistics.median(ratios):.3f} times as long "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f} in {len(ratios)} rounds)\n"
    )


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a worker that runs, without /v1; one is started if not given")
    parser.add_argument("--model", type=Path, help="a GGUF file; the demo model if not given")
    parser.add_argument("--chats", type=int, default=8, help="at once")
    parser.add_argument("--tokens", type=int, default=128, help=f"of the longer answers; the others have {SHORT}")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> list[Pair]:
    if args.url:
        return asyncio.run(compare(args.url, args))
    model = args.model or demo_model()
    sys.stdout.write(f"{circumstances(model, num_usable_cores())}\n")
    sys.stdout.flush()
    longest = LONGEST_PROMPT + args.tokens
    with tempfile.TemporaryDirectory() as logs:
        n_ctx = room_for(longest, args.chats)
        load = Load(model, n_ctx, args.chats, num_usable_cores(), FOLDER, Path(logs), longest)
        with spawned(WORKER, load) as server:
            server.wait()
            return asyncio.run(compare(server.url, args))


def main() -> None:
    args = parse(sys.argv[1:])
    try:
        pairs = measure(args)
    except (NotHereError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    sys.stdout.write(report(pairs, args.chats))


if __name__ == "__main__":
    main()
