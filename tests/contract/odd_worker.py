"""The worker, unchanged but for what the environment asks: to be slow, to tell its steps, or to break.

ODD_STEP_SECONDS=0.01   an engine step takes so long at least
ODD_TRACE=1             prints "step" for each engine step and "slot freed" when a sequence's slot is
ODD_BROKEN=/some/file   while this file exists, the engine thread breaks down at its next step
"""

import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

from handler import __main__ as worker
from handler.engine.batch import Batch
from handler.engine.engine_loop import EngineLoop
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.sequence import SampledToken, Sequence
from handler.engine.step_times import StepTimes

STEP_SECONDS = float(os.environ.get("ODD_STEP_SECONDS", "0"))
TRACES = "ODD_TRACE" in os.environ
BROKEN = Path(os.environ.get("ODD_BROKEN", "/nonexistent"))

launch, collect, forget = ModelRunner.launch, ModelRunner.collect, EngineLoop._forget


def odd_launch(runner: ModelRunner, batch: Batch, times: StepTimes) -> None:
    if BROKEN.exists():
        raise RuntimeError("broken on purpose")
    if TRACES:
        tell("step")
    launch(runner, batch, times)


def odd_collect(runner: ModelRunner, batch: Batch, times: StepTimes) -> list[list[SampledToken]]:
    ends = time.monotonic() + STEP_SECONDS
    sampled = collect(runner, batch, times)
    time.sleep(max(0.0, ends - time.monotonic()))
    return sampled


def odd_forget(loop: EngineLoop, sequence: Sequence) -> None:
    forget(loop, sequence)
    if TRACES:
        tell("slot freed")


def tell(what: str) -> None:
    sys.stdout.write(f"odd: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with (
        patch.object(ModelRunner, "launch", odd_launch),
        patch.object(ModelRunner, "collect", odd_collect),
        patch.object(EngineLoop, "_forget", odd_forget),
    ):
        sys.exit(worker.main())
