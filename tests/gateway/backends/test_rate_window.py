"""A limit on calls in a stretch of time."""

import random

from local_gateway.backends.runpod.rate_window import RateWindow


def test_no_stretch_has_more_calls() -> None:
    """Wherever it begins; and who waits as told gets in."""
    dice = random.Random(1)
    window, now, calls = RateWindow(5, 10.0), 0.0, list[float]()
    while len(calls) < 200:
        if wait := window.enter(now):
            now += wait
        else:
            calls.append(now)
            now += dice.choice([0.0, 0.0, 0.5, 3.0])

    assert all(later - sooner >= 10.0 for sooner, later in zip(calls, calls[5:], strict=False))
    assert len({call for call in calls if calls.count(call) > 1}) > 0


def test_a_refused_call_is_not_counted() -> None:
    """However often one asks too early."""
    window = RateWindow(1, 10.0)

    assert [window.enter(now) for now in (0.0, 4.0, 9.0, 10.0, 10.0)] == [0.0, 6.0, 1.0, 0.0, 10.0]
