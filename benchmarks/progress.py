"""How far a long measurement is: a bar on a terminal, sparse lines in a log. On stderr, beside the tables."""

import asyncio
import sys
import time
from collections.abc import Coroutine
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

PAUSE = 30.0  # seconds between two lines of a log
TICK = 1.0  # and between two looks at a terminal

T = TypeVar("T")


class Progress:
    """Counts steps of about equal length, whose number is known. Knows nothing of what they are."""

    def __init__(self, num_steps: int, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._num_steps = num_steps
        self._num_done = 0
        self._started = self._said = time.monotonic()
        self._bar = tqdm(
            total=num_steps, file=self._out, unit="run", leave=False, mininterval=0, disable=not self._out.isatty()
        )

    def begin(self, what: str) -> None:
        """Say what is measured now."""
        self._bar.set_description_str(what)
        now = time.monotonic()
        if self._bar.disable and (not self._num_done or now - self._said >= PAUSE):
            self._said = now
            self._out.write(f"{self._num_done} of {self._num_steps} runs in {now - self._started:.0f} s; now {what}\n")
            self._out.flush()

    def done(self, num_steps: int = 1) -> None:
        self._num_done += num_steps
        self._bar.update(num_steps)

    def write(self, text: str) -> None:
        """To stdout, above the bar."""
        self._bar.clear()
        sys.stdout.write(text)
        sys.stdout.flush()
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


async def waited_for(what: str, result: Coroutine[Any, Any, T], out: TextIO | None = None) -> T:
    """The result of what may take minutes and has no steps, like a cold start: its seconds are counted meanwhile."""
    out = out or sys.stderr
    is_terminal = out.isatty()
    began = time.monotonic()
    task = asyncio.ensure_future(result)
    try:
        while not (await asyncio.wait([task], timeout=TICK if is_terminal else PAUSE))[0]:
            seconds = time.monotonic() - began
            out.write(f"\r{what}, {seconds:.0f} s" if is_terminal else f"{what}, {seconds:.0f} s\n")
            out.flush()
        return task.result()
    finally:
        task.cancel()
        if is_terminal:
            out.write("\r\x1b[K")
