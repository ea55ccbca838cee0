"""Accepted drafts make the next ones longer, rejected ones shorter, and after some time rare."""

from handler.engine.speculative.draft_length import MAX_PAUSE, MIN_PAUSE, DraftLength


def lengths(length: DraftLength, num_steps: int, num_right: int) -> list[int]:
    """The drafts of some steps, of which so many tokens are right."""
    drafted = []
    for _ in range(num_steps):
        drafted.append(length.next())
        if drafted[-1]:
            length.learn(drafted[-1], min(num_right, drafted[-1]))
    return drafted


def test_all_right() -> None:
    """Doubles up to the limit."""
    assert lengths(DraftLength(12), 4, num_right=100) == [2, 4, 8, 12]


def test_right_in_part() -> None:
    """What was accepted, and one more to find out whether more would be."""
    assert lengths(DraftLength(16), 5, num_right=3) == [2, 4, 4, 4, 4]
    assert lengths(DraftLength(16), 5, num_right=5) == [2, 4, 8, 6, 6]


def test_wrong() -> None:
    """Halves, then pauses, longer each time, but never for good."""
    drafted = lengths(DraftLength(8), 4000, num_right=0)
    assert drafted[: 3 + MIN_PAUSE] == [2, 1] + [0] * MIN_PAUSE + [1]
    assert set(drafted[-MAX_PAUSE - 1 :]) == {0, 1}
    assert sum(drafted) < 4000 / MAX_PAUSE + 16


def test_right_again() -> None:
    """One accepted token ends the long pauses."""
    length = DraftLength(8)
    lengths(length, 500, num_right=0)
    while not length.next():
        pass
    length.learn(1, 1)
    assert lengths(length, 3, num_right=100) == [2, 4, 8]


def test_a_limit_of_one() -> None:
    """Is a draft all the same."""
    assert lengths(DraftLength(1), 3, num_right=1) == [1, 1, 1]
