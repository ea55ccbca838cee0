"""How far a long measurement is, on a terminal and in a log."""

import asyncio
import io

import pytest

from benchmarks import progress as progress_module
from benchmarks.progress import Progress, waited_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_at_the_beginning_and_then_few() -> None:
    log = io.StringIO()
    progress = Progress(100, log)
    for number in range(100):
        progress.begin(f"run {number}")
        progress.done()
    progress.close()

    assert log.getvalue() == "0 of 100 runs in 0 s; now run 0\n"


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    progress = Progress(2, terminal)
    progress.begin("this worker, 8 chats")
    progress.done(2)
    progress.close()

    assert "this worker, 8 chats: 100%" in terminal.getvalue()


class Listener(io.StringIO):
    """Lets something happen when something was said."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.was_told = asyncio.Event()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def flush(self) -> None:
        self.was_told.set()


@pytest.mark.parametrize(("is_terminal", "end"), [(True, "\r\x1b[K"), (False, "\n")], ids=["terminal", "log"])
async def test_a_wait_is_counted(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, end: str) -> None:
    """On one line that goes away, or in lines of a log."""
    monkeypatch.setattr(progress_module, "TICK", 0.001)
    monkeypatch.setattr(progress_module, "PAUSE", 0.001)
    out = Listener(is_terminal=is_terminal)

    async def answer() -> str:
        await out.was_told.wait()
        return "answer"

    assert await waited_for("waiting", answer(), out) == "answer"
    assert {line for line in out.getvalue().removesuffix(end).split("\r" if is_terminal else "\n") if line} == {
        "waiting, 0 s"
    }
    assert out.getvalue().endswith(end)


async def test_a_short_wait_says_nothing() -> None:
    out = Listener(is_terminal=False)

    async def answer() -> str:
        return "answer"

    assert await waited_for("waiting", answer(), out) == "answer"
    assert out.getvalue() == ""
