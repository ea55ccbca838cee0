"""llama.cpp's callbacks: what is passed on to Python, and what ends in C."""

import pytest

from handler.engine.llama.backend import llama_log, log_callback
from handler.engine.llama.callbacks import LogCallback, ProgressCallback
from handler.engine.llama.log import CONTINUATION, LlamaLog

INFO, WARNING, ERROR = 2, 3, 4


class Recording(LlamaLog):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[int, bytes]] = []

    def __call__(self, level: int, text: bytes, user_data: object) -> None:
        self.pieces.append((level, text))


@pytest.fixture
def recording() -> Recording:
    return Recording()


DETAIL = [(INFO, b"a"), (CONTINUATION, b"b\n")]
WARNINGS = [(WARNING, b"c"), (CONTINUATION, b"d\n"), (ERROR, b"e\n")]


@pytest.mark.parametrize(("level", "passed"), [("INFO", WARNINGS), ("DEBUG", DETAIL + WARNINGS)])
def test_lines_that_nothing_reads_end_in_c(
    recording: Recording, caplog: pytest.LogCaptureFixture, level: str, passed: list[tuple[int, bytes]]
) -> None:
    """Whole lines of them, however many pieces they come in."""
    caplog.set_level(level, logger="llama.cpp")
    callback = LogCallback(recording)
    for piece in DETAIL + WARNINGS:
        callback.function(*piece, None)
    log_callback.adjust()  # the process's own again
    assert recording.pieces == passed


def test_the_process_has_its_log_again() -> None:
    """After the test above: one function of C serves one log."""
    llama_log.errors.clear()
    log_callback.function(ERROR, b"no such tensor\n", None)
    assert llama_log.reason() == "no such tensor"


@pytest.mark.parametrize(("pause", "passed"), [(0.0, [0.0, 0.3, 0.9, 1.0]), (1e9, [1.0])])
def test_progress_comes_with_pauses(pause: float, passed: list[float]) -> None:
    """And the end in any case."""
    told: list[float] = []
    progress = ProgressCallback(told.append, pause)
    for share in (0.0, 0.3, 0.9, 1.0):
        assert progress.function(share, progress.data)
    assert told == pytest.approx(passed)
