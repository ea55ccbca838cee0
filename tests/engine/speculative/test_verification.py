"""How much of a draft counts."""

from handler.engine.sequence import SampledToken
from handler.engine.speculative.verification import verify


def verified(drafts: list[list[int]], rows: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens for each draft, and the rows of each round; from each row its token of `rows` is drawn."""
    rounds: list[list[int]] = []

    def draw(numbers: list[int], outputs: list[int]) -> list[SampledToken]:
        assert len(numbers) == len(outputs)
        rounds.append(outputs)
        return [SampledToken(rows[output]) for output in outputs]

    return [[token.token_id for token in tokens] for tokens in verify(drafts, draw)], rounds


def test_without_drafts_each_gets_one_token() -> None:
    """All in one round."""
    assert verified([[], [], []], [1, 2, 3]) == ([[1], [2], [3]], [[0, 1, 2]])


def test_a_draft_that_is_right_brings_one_token_more() -> None:
    """The one after it was drawn from a true prefix, too."""
    assert verified([[1, 2]], [1, 2, 3]) == ([[1, 2, 3]], [[0], [1], [2]])


def test_a_wrong_draft_costs_nothing() -> None:
    """The token drawn in its place is as good as any, and what lies behind is not looked at."""
    assert verified([[9, 2]], [1, 2, 3]) == ([[1]], [[0]])


def test_drafts_are_verified_side_by_side() -> None:
    """Each round draws for all that still agree."""
    assert verified([[1, 9], [], [6, 7]], [1, 2, 3, 4, 6, 7, 8]) == (
        [[1, 2], [4], [6, 7, 8]],
        [[0, 3, 4], [1, 5], [6]],
    )


def test_no_sequence_draws() -> None:
    """A step of prompts alone has no rows."""
    assert verified([], []) == ([], [])
