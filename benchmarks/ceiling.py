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


def measure(load: Load, prompt_tokens: int, tokens: int, concurrencies: list[int], repeat: int) -> dict[int, Ceiling]:
    """By concurrency; the best of a few runs. Raises NotHereError."""
    runs = [*concurrencies * repeat, 1]  # the last one's line may get lost when it ends
    options = {
        "-m": load.model,
        "-c": load.n_ctx,
        "-t": load.threads,
        "-b": 2048,
        "-ub": 512,
        "-ngl": 999,
        "-npp": prompt_tokens,
        "-ntg": tokens,
        "-npl": ",".join(map(str, runs)),
        "--output-format": "jsonl",
    }
    arguments = [program("llama-batched-bench", load.folder), "-kvu"]
    arguments += [str(part) for option in options.items() for part in option]
    output = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = (output.stdout + output.stderr).splitlines()
    rows = [json.loads(line[line.index("{") :]) for line in lines if '"speed_tg"' in line]
    found = [(row["pl"], Ceiling(row["pl"] * row["tg"] / row["t"], row["speed_tg"])) for row in rows]
    return {number: max(ceiling for key, ceiling in found if key == number) for number, _ in found}
