"""How far a long measurement is, on a terminal and in a log."""

import io

from benchmarks.progress import Progress


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
