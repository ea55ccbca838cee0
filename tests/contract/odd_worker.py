"""The worker, unchanged but for what the environment asks: to be slow, to tell its steps, to sleep long, or to break.

ODD_STEP_SECONDS=0.01   an engine step takes so long at least
ODD_TRACE=1             prints "step" for each engine step and "slot freed" when a sequence's slot is
ODD_BROKEN=/some/file   while this file exists, the engine thread breaks down at its next step
ODD_FROZEN_SECONDS=60   when it is thawed, its clocks say that so much time has passed
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
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
FROZEN_SECONDS = float(os.environ.get("ODD_FROZEN_SECONDS", "0"))
CLOCKS = ("monotonic", "time", "perf_counter")  # of the module `time`; asyncio's loop looks at the first

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


class JumpingClocks:
    """The process's clocks as a freeze leaves them: each SIGCONT, which ends one, puts them forward.

    Timers inside the kernel are not moved: those of sockets, and of a wait that has begun.
    """

    def __init__(self, jump: float) -> None:
        self._jump = jump  # seconds
        self._ahead = 0.0

    def install(self, patches: ExitStack) -> None:
        for name in CLOCKS:
            patches.enter_context(patch.object(time, name, self._moved(getattr(time, name))))
        signal.signal(signal.SIGCONT, lambda *_: self._thaw())

    def _moved(self, clock: Callable[[], float]) -> Callable[[], float]:
        return lambda: clock() + self._ahead

    def _thaw(self) -> None:
        self._ahead += self._jump
        os.write(sys.stdout.fileno(), b"odd: clocks jumped\n")  # the signal may have come amid a use of sys.stdout


if __name__ == "__main__":
    with ExitStack() as patches:
        patches.enter_context(patch.object(ModelRunner, "launch", odd_launch))
        patches.enter_context(patch.object(ModelRunner, "collect", odd_collect))
        patches.enter_context(patch.object(EngineLoop, "_forget", odd_forget))
        if FROZEN_SECONDS:
            JumpingClocks(FROZEN_SECONDS).install(patches)
        sys.exit(worker.main())
