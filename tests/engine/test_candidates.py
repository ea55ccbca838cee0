"""The likeliest tokens of many rows: none of them is missed, and what is added is not there twice."""

import numpy as np
import pytest

from handler.engine.candidates import BLOCK, Candidates, Logits, likeliest, max_candidates

NONE = np.empty(0, np.intp)


def random_logits(num_rows: int, num_tokens: int) -> Logits:
    return np.random.default_rng(1).normal(size=(num_rows, num_tokens)).astype(np.float32)


def rows_of(candidates: Candidates) -> list[tuple[list[int], Logits]]:
    """Token ids and logits of each row."""
    ends = zip(candidates.starts, candidates.starts[1:], strict=False)
    return [(candidates.token_ids[a:b].tolist(), candidates.logits[a:b]) for a, b in ends]


@pytest.mark.parametrize("num_tokens", [BLOCK * 40, BLOCK * 40 + 1, BLOCK * 41 - 1])
@pytest.mark.parametrize("num", [1, 3, max_candidates(BLOCK * 40)])
def test_has_the_likeliest(num_tokens: int, num: int) -> None:
    """Whether or not the last tokens fill a block, with their own logits, and few others beside them."""
    logits = random_logits(5, num_tokens)
    logits[2, -1] = 100  # among those that may fill none
    for row, (token_ids, values) in zip(logits, rows_of(likeliest(logits, num, NONE)), strict=True):
        assert set(np.argsort(row)[-num:].tolist()) <= set(token_ids)
        assert (row[token_ids] == values).all()
        assert token_ids == sorted(set(token_ids))
        assert len(token_ids) < 2 * num + 5


def test_equal_logits_are_all_there() -> None:
    """Which of equals are the likeliest is not decided here."""
    logits = np.zeros((2, BLOCK * 40), np.float32)
    assert [len(token_ids) for token_ids, _ in rows_of(likeliest(logits, 3, NONE))] == [BLOCK * 40] * 2


def test_more_may_be_asked_for() -> None:
    """Tokens named are there once, likely or not."""
    logits = random_logits(2, BLOCK * 40)
    best, worst = int(logits[1].argmax()), int(logits[1].argmin())
    also = logits.shape[1] + np.array([best, worst], np.intp)
    (first, _), (second, values) = rows_of(likeliest(logits, 1, also))
    assert first == [int(logits[0].argmax())]
    assert second == sorted([best, worst])
    assert sorted(values.tolist()) == [logits[1].min(), logits[1].max()]


def test_a_row_that_is_not_of_numbers() -> None:
    """It has no candidates, and the others keep theirs."""
    logits = random_logits(3, BLOCK * 40)
    logits[1] = np.nan
    lengths = [len(token_ids) for token_ids, _ in rows_of(likeliest(logits, 1, NONE))]
    assert lengths == [1, 0, 1]


@pytest.mark.parametrize("width", [BLOCK * 40, BLOCK * 40 + 9])
def test_forbidden_tokens_are_no_candidates(width: int) -> None:
    """Where fewer are allowed than asked for, these are all; of none there are none, and others keep theirs."""
    logits = random_logits(3, width)
    allowed = [3, BLOCK, width - 1]
    logits[1:] = -np.inf
    logits[1, allowed] = [1.0, -5.0, 2.0]
    also = np.array([width + 4, width + 3], np.intp)  # one that is forbidden, one that is not
    lengths = [len(token_ids) for token_ids, _ in rows_of(likeliest(logits, 7, also))]
    assert rows_of(likeliest(logits, 7, also))[1][0] == allowed
    assert lengths[0] >= 7
    assert lengths[2] == 0
