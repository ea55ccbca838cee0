"""What llama.cpp itself can compute: llama-batched-bench, which neither samples nor serves."""

import json
import subprocess
from typing import NamedTuple

from benchmarks.servers import Load, program

PATIENCE = 600.0  # seconds


class Ceiling(NamedTuple):
    """Generated tokens a second: over all of a run, prompts and answers; over the answers' steps alone."""

    whole: float
    generation: float


def measure(load: Load, prompt_tokens: int, tokens: int, concurrencies: list[int]) -> dict[int, Ceiling]:
    """By concurrency. Raises NotHereError."""
    options = {
        "-m": load.model,
        "-c": load.n_ctx,
        "-t": load.threads,
        "-b": 2048,
        "-ub": 512,
        "-ngl": 999,
        "-npp": prompt_tokens,
        "-ntg": tokens,
        "-npl": ",".join(map(str, [*concurrencies, 1])),  # its last line may get lost when it ends
        "--output-format": "jsonl",
    }
    arguments = [program("llama-batched-bench", load.folder), "-kvu"]
    arguments += [str(part) for option in options.items() for part in option]
    output = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = (output.stdout + output.stderr).splitlines()
    rows = [json.loads(line[line.index("{") :]) for line in lines if '"speed_tg"' in line]
    return {row["pl"]: Ceiling(row["pl"] * row["tg"] / row["t"], row["speed_tg"]) for row in reversed(rows)}
