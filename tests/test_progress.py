"""Progress is a bar on a terminal, and sparse lines in a log: never both, and nothing of what is quick."""

import io
import logging
import sys

import pytest

from handler.progress import Progress

GB = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "handler.progress")


def test_a_tenth_has_a_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """And what is in between has none, however often it is told."""
    with Progress("model", 5 * GB, clock=clock) as progress:
        for percent in range(1, 101):
            clock.now += 0.2
            progress.reach(percent * 5 * GB // 100)

    assert [record.getMessage() for record in caplog.records] == [
        f"model: {number / 2:.1f} GB of 5.0 GB" if number > 1 else "model: 500.0 MB of 5.0 GB"
        for number in range(1, 11)
    ]


def test_what_is_quick_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("model", GB, clock=clock) as progress:
        for percent in range(101):
            clock.now += 0.005
            progress.share(percent / 100)

    assert not caplog.records


def test_what_is_slow_says_that_it_goes_on(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Every half minute, also where the whole is not known."""
    for whole in (100 * GB, None):
        caplog.clear()
        with Progress("model", whole, clock=clock) as progress:
            for number in range(60):
                clock.now += 1.0
                progress.reach(number * 1_000_000)

        assert len(caplog.records) == 2
    assert caplog.records[0].getMessage() == "model: 29.0 MB of unknown"


def test_what_was_there_before_is_no_progress(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A download that is resumed."""
    with Progress("model", GB, num_done=GB // 2, clock=clock) as progress:
        clock.now += 2.0
        progress.reach(GB // 2 + 1)

    assert not caplog.records


def test_a_terminal_has_a_bar_and_no_lines(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes away when the work is done, so that what is printed next stands alone."""
    screen = Screen()
    monkeypatch.setattr("handler.progress.MIN_PAUSE", 0.0)
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("loading model.gguf", GB, clock=clock) as progress:
        clock.now += 60.0
        progress.share(0.5)
        progress.share(1.0)

    assert "loading model.gguf:   0%|" in screen.getvalue()
    assert screen.getvalue().rpartition("\r")[2].strip() == ""
    assert not caplog.records
