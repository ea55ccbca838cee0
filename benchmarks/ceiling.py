"""What llama.cpp itself can compute: llama-batched-bench, which neither samples nor serves.

It knows prompts and answers of one length each. For the closed loop it is given the mean lengths, and as many prompts
as chats before all of their answers: not what a server could reach there exactly, but what the same tokens cost.
"""

import json
import subprocess
from typing import NamedTuple

from benchmarks.servers import Load, NotHereError, program

PATIENCE = 600.0  # seconds
MODES: dict[str, list[str]] = {"streams": [], "-kvu": ["-kvu"]}
CELLS = 256  # a stream's length is a multiple of this


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
    cells = -(-(job.prompt_tokens + job.tokens) // CELLS) * CELLS * max(concurrencies)
    options = {
        "-m": load.model,
        "-c": max(load.n_ctx, cells),
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
