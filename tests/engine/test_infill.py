"""Filling in the middle: the order of the parts, other files, and what is cut."""

import pytest

from handler.engine.infill import CURRENT_FILE, REPOSITORY, SNIPPET, FimTokens, infill_tokens
from handler.engine.prompt import Infill
from handler.errors import InvalidRequestError

PRE, SUF, MID, REP, FILE, BOS = range(1000, 1006)
BARE = FimTokens(PRE, SUF, MID)
ROOMY = 10_000


def tokenize(text: str) -> list[int]:
    """A token for each character."""
    return [ord(char) for char in text]


def test_the_prefix_comes_first() -> None:
    """What was begun of the middle stands behind the prefix, and the model goes on behind the last token."""
    token_ids = infill_tokens(Infill("ab", "yz", begun="c"), BARE, tokenize, ROOMY)

    assert token_ids == [PRE, *b"abc", SUF, *b"yz", MID]


def test_the_suffix_may_come_first() -> None:
    """Some models were trained so; the vocabulary's own beginning stays the beginning."""
    token_ids = infill_tokens(Infill("ab", "yz", begun="c", suffix_first=True), BARE._replace(bos=BOS), tokenize, ROOMY)

    assert token_ids == [BOS, SUF, *b"yz", PRE, *b"abc", MID]


def test_other_files_come_before() -> None:
    """With the tokens of the repository form where the model has them, else with a line between."""
    infill = Infill("a", "z", extra=(("llama.h", "int x;"),))
    gap = [PRE, *b"a", SUF, *b"z", MID]
    named = [FILE, *b"llama.h\nint x;", FILE, *CURRENT_FILE.encode()]

    assert infill_tokens(infill, BARE, tokenize, ROOMY) == [*SNIPPET.encode(), *b"int x;", *gap]
    assert infill_tokens(infill, BARE._replace(file=FILE), tokenize, ROOMY) == [*named, *gap]
    whole = infill_tokens(infill, BARE._replace(file=FILE, repository=REP, bos=BOS), tokenize, ROOMY)
    assert whole == [BOS, REP, *REPOSITORY.encode(), *named, *gap]


def test_what_is_far_from_the_gap_is_cut() -> None:
    """Three quarters of the room are the prefix's and one is the suffix's; what one does not need the other gets."""
    prefix, suffix = "x" * 500 + "p" * 12, "s" * 4 + "y" * 500

    assert infill_tokens(Infill(prefix, suffix, may_cut=True), BARE, tokenize, 19) == [
        *(PRE, *b"pppppppppppp", SUF, *b"ssss", MID)
    ]
    assert infill_tokens(Infill("a", suffix, may_cut=True), BARE, tokenize, 8) == [PRE, *b"a", SUF, *b"ssss", MID]
    assert infill_tokens(Infill(prefix, "", may_cut=True), BARE, tokenize, 8) == [PRE, *b"ppppp", SUF, MID]


def test_other_files_get_what_is_left() -> None:
    """The end of them, which is nearest."""
    infill = Infill("ab", "yz", extra=(("old", "OLD"), ("new", "NEW")), may_cut=True)

    assert infill_tokens(infill, BARE, tokenize, 3 + 4 + 3) == [*b"NEW", PRE, *b"ab", SUF, *b"yz", MID]
    assert infill_tokens(infill, BARE, tokenize, 3 + 4) == [PRE, *b"ab", SUF, *b"yz", MID]


@pytest.mark.parametrize("max_tokens", [0, 1, 3, 4, 5])
def test_next_to_no_room(max_tokens: int) -> None:
    """The gap itself is always there."""
    token_ids = infill_tokens(Infill("abc", "xyz", may_cut=True), BARE, tokenize, max_tokens)

    assert [token_id for token_id in token_ids if token_id >= PRE] == [PRE, SUF, MID]
    assert len(token_ids) <= max(3, max_tokens)


def test_a_model_without_the_tokens() -> None:
    """It says so in words."""
    with pytest.raises(InvalidRequestError, match="no tokens to fill in the middle"):
        infill_tokens(Infill("a", "b"), None, tokenize, ROOMY)
