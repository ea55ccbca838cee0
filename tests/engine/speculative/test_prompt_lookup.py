"""What followed the last time."""

import random

import pytest

from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.speculative.prompt_lookup import NgramIndex, PromptLookup
from tests.engine.fakes import ByteVocabulary


def follow(text: str, max_tokens: int = 5, sizes: tuple[int, ...] = (4, 3, 2)) -> str:
    return bytes(NgramIndex(sizes).follow(list(text.encode()), max_tokens)).decode()


def naive(token_ids: list[int], sizes: tuple[int, ...], max_tokens: int) -> list[int]:
    """By searching backwards."""
    for size in sorted(sizes, reverse=True):
        for end in range(len(token_ids) - 1, size - 1, -1):
            if len(token_ids) > size and token_ids[end - size : end] == token_ids[-size:]:
                text = list(token_ids)
                for place in range(max_tokens):
                    text.append(text[end + place])
                return text[len(token_ids) :]
    return []


def test_what_followed_the_same_words() -> None:
    """The rest of the earlier text, as far as asked."""
    assert follow("one two three; one tw") == "o thr"


def test_the_longest_match_counts() -> None:
    """Not the latest, if it agrees with less."""
    assert follow("abcdX..zcdY..abcd", 1) == "X"


def test_the_latest_of_equal_matches_counts() -> None:
    """A text is more like what was said last."""
    assert follow("abcdX abcdY abcd", 1) == "Y"


def test_nothing_like_it() -> None:
    """No draft is a good answer."""
    assert follow("abcdefgh") == ""
    assert follow("a") == ""
    assert follow("") == ""


def test_a_short_period_goes_on() -> None:
    """A text that repeats itself is continued beyond its end."""
    assert follow("-=-=-=", 7) == "-=-=-=-"
    assert follow("aaaa", 3) == "aaa"


@pytest.mark.parametrize("sizes", [(2,), (4, 3), (4, 3, 2)])
def test_index_finds_what_a_search_finds(sizes: tuple[int, ...]) -> None:
    """However the list has grown since it was asked last."""
    rng = random.Random(5)
    for num_letters in (2, 4, 12):
        index, token_ids = NgramIndex(sizes), [0]
        for _ in range(150):
            assert index.follow(token_ids, 6) == naive(token_ids, sizes, 6)
            token_ids += [rng.randrange(num_letters) for _ in range(rng.randrange(1, 6))]


def test_each_sequence_has_its_own_index() -> None:
    """One sequence's text is no draft for another; and nothing is kept of forgotten ones."""
    lookup = PromptLookup()
    params = SamplingParams()
    texts = [b"one two, one t", b"one t"]
    first, second = (Sequence(list(t), params, vocabulary=ByteVocabulary(), max_num_tokens=99) for t in texts)
    assert lookup.propose([first, second], [3, 3]) == [list(b"wo,"), []]
    lookup.forget(first)
    lookup.forget(second)
    assert not lookup._indices
    lookup.forget(second)
    lookup.close()
