"""Which seq_ids lie side by side, and which of them a step computes."""

import random

from handler.engine.cache.placement import PATIENCE, Window, nearest, num_gaps, outermost


def test_gaps() -> None:
    """What is missing between the first and the last."""
    assert num_gaps([]) == 0
    assert num_gaps([7]) == 0
    assert num_gaps([3, 4, 5]) == 0
    assert num_gaps([9, 3, 5]) == 4


def test_nearest() -> None:
    """Those among the running ones, else those next to them; all, if none runs."""
    assert nearest([4, 7], [0, 3, 5, 6, 8]) == [5, 6]
    assert nearest([4, 5], [0, 3, 6, 8]) == [3, 6]
    assert nearest([], [0, 9]) == [0, 9]


def test_a_window_grows_at_once() -> None:
    """By sizes, so that it seldom changes; never beyond the slots there are."""
    window = Window(60)

    assert window.covering([5]) == range(5, 6)
    assert window.covering([5, 7]) == range(5, 9)
    assert window.covering([6]) == range(5, 9)
    assert window.covering([4, 30]) == range(4, 36)
    assert window.covering([50, 59]) == range(44, 60)
    assert window.covering([0, 59]) == range(60)


def test_a_window_shrinks_late() -> None:
    """Chats that come and go within a short time leave it as it is."""
    window = Window(64)
    window.covering([0, 7])

    for _ in range(PATIENCE - 1):
        assert window.covering([2]) == range(8)
    assert window.covering([0, 7]) == range(8)
    for _ in range(PATIENCE - 1):
        assert window.covering([2]) == range(8)
    assert window.covering([2]) == range(2, 3)


def test_a_window_covers_what_is_asked() -> None:
    """Whatever runs, in whatever order it comes and goes."""
    rng = random.Random(1)
    window = Window(100)
    for _ in range(2000):
        seq_ids = rng.sample(range(100), rng.randrange(1, 30))
        covering = window.covering(seq_ids)
        assert set(seq_ids) <= set(covering) <= set(range(100))


def test_gaps_are_borne_that_cost_nothing() -> None:
    """They are padded; only where the sizes say that a smaller window would do, and for long, is a slot moved."""
    window = Window(64)
    for _ in range(3 * PATIENCE):
        assert not window.is_loose([0, 2, 3])
        assert not window.is_loose([])
    for _ in range(PATIENCE - 1):
        assert not window.is_loose([0, 9])
    assert window.is_loose([0, 9])
    assert not window.is_loose([0, 1])


def test_outermost() -> None:
    """The one behind the larger gap."""
    assert outermost([1, 2, 9]) == 9
    assert outermost([1, 8, 9]) == 1
    assert outermost([1, 9]) == 9
