"""What llama.cpp itself can compute: llama-batched-bench, which neither samples nor serves.

It knows prompts and answers of one length each. For the closed loop it is given the mean lengths, and as many prompts
as chats before all of their answers: not what a server could reach there exactly, but what the same tokens cost.

    python benchmarks/ceiling.py --model m.gguf --concurrency 8,32,64 --json ceilings.json
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.people import MEAN_ANSWER_TOKENS, MEAN_PROMPT_TOKENS  # the path comes first
from benchmarks.servers import FOLDER, Load, NotHereError, cells, program
from benchmarks.workloads import Shape
from handler.cpu_quota import num_usable_cores

PATIENCE = 600.0  # seconds
MODES: dict[str, list[str]] = {"streams": [], "-kvu": ["-kvu"]}


class Ceiling(NamedTuple):
    """Generated tokens a second: over all of a run, prompts and answers; over the answers' steps alone. Prompt tokens a
    second while prompts are computed."""

    workload: str
    mode: str
    concurrency: int
    whole: float
    generation: float
    prompts: float


class Job(NamedTuple):
    """What stands for a workload."""

    workload: str
    mode: str  # of MODES
    prompt_tokens: int
    tokens: int


def measure(load: Load, job: Job, concurrencies: list[int], repeat: int) -> list[Ceiling]:
    """One for each concurrency: the best of a few runs. Raises NotHereError."""
    runs = [*concurrencies * repeat, 1]  # the last one's line may get lost when it ends
    needed = cells(job.prompt_tokens + job.tokens) * max(concurrencies)
    options = {
        "-m": load.model,
        "-c": max(load.n_ctx, needed),
        "-t": load.threads,
        "-b": 2048,
        "-ub": 512,
        "-ngl": 999,
        "-npp": job.prompt_tokens,
        "-ntg": job.tokens,
        "-npl": ",".join(map(str, runs)),
        "--output-format": "jsonl",
    }
    arguments = [program("llama-batched-bench", load.folder), *MODES[job.mode]]
    arguments += [str(part) for option in options.items() for part in option]
    output = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False)
    lines = (output.stdout + output.stderr).splitlines()
    rows = [json.loads(line[line.index("{") :]) for line in lines if '"speed_tg"' in line]
    found = [
        Ceiling(job.workload, job.mode, row["pl"], row["pl"] * row["tg"] / row["t"], row["speed_tg"], row["speed_pp"])
        for row in rows
    ]
    if missing := set(concurrencies) - {ceiling.concurrency for ceiling in found}:
        raise NotHereError(f"llama-batched-bench has no line for {sorted(missing)}: {output.stderr[-500:]}")
    return [
        max((ceiling for ceiling in found if ceiling.concurrency == number), key=lambda ceiling: ceiling.whole)
        for number in concurrencies
    ]


def jobs(shape: Shape, workloads: list[str]) -> list[Job]:
    """In both modes, for those workloads that it can stand for."""
    sizes = {"loop": (MEAN_PROMPT_TOKENS, MEAN_ANSWER_TOKENS), "equal": (shape.prompt, shape.tokens)}
    return [Job(name, mode, *sizes[name]) for name in workloads if name in sizes for mode in MODES]


def read(path: Path) -> list[Ceiling]:
    """What `--json` has kept."""
    return [Ceiling(**found) for found in json.loads(path.read_text())]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--concurrency", type=lambda text: list(map(int, text.split(","))), default=[1, 8, 32, 64])
    parser.add_argument("--repeat", type=int, default=2, help="runs; the best counts")
    parser.add_argument("--n-ctx", type=int, default=0, help="tokens of the cache, where the chats need fewer")
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    parser.add_argument("--prompt", type=int, default=Shape().prompt, help="tokens of an equal prompt")
    parser.add_argument("--tokens", type=int, default=Shape().tokens, help="tokens of an equal answer")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of what benchmarks/peers.sh makes")
    parser.add_argument("--json", type=Path, help="write them here too")
    return parser.parse_args(argv)


def main() -> None:
    args = parse(sys.argv[1:])
    load = Load(args.model, args.n_ctx, max(args.concurrency), args.threads, args.folder, Path())
    found: list[Ceiling] = []
    sys.stdout.write(
        f"{'workload':10}{'mode':10}{'chats':>6}{'tokens/s':>10}{'answers alone':>15}{'prompts alone':>15}\n"
    )
    for job in jobs(Shape(args.prompt, args.tokens), ["loop", "equal"]):
        try:
            some = measure(load, job, args.concurrency, args.repeat)
        except NotHereError as error:
            raise SystemExit(f"no ceiling: {error}") from error
        found += some
        for ceiling in some:
            rates = f"{ceiling.whole:>10,.1f}{ceiling.generation:>15,.1f}{ceiling.prompts:>15,.0f}"
            sys.stdout.write(f"{ceiling.workload:10}{ceiling.mode:10}{ceiling.concurrency:>6}{rates}\n")
        sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps([ceiling._asdict() for ceiling in found]))


if __name__ == "__main__":
    main()
