"""Drafts from the sequence's own text: what followed the last occurrence of its latest tokens.

Prompt lookup decoding (https://github.com/apoorvumang/prompt-lookup-decoding), with an index of n-grams instead of a
search. It costs microseconds and no model. It pays where an answer repeats its prompt or itself: code that is changed,
documents that are quoted, lists.

Pure code. Knows nothing of llama.cpp.
"""

from collections.abc import Sequence as List
from itertools import count, takewhile

from handler.engine.sequence import Sequence

# Tokens of an n-gram. Long ones find the right one of several places that look alike, short ones find a place again
# soon after a change. See docs/measurements.md.
SIZES = (12, 5, 2)


class PromptLookup:
    """A `Drafter`. Holds an index for each sequence that it drafted for, until the sequence is forgotten."""

    def __init__(self, sizes: tuple[int, ...] = SIZES) -> None:
        self._sizes = sizes
        self._indices: dict[Sequence, NgramIndex] = {}

    def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
        return [self._propose(sequence, limit) for sequence, limit in zip(sequences, max_tokens, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        self._indices.pop(sequence, None)

    def close(self) -> None:
        """There is nothing to free."""

    def _propose(self, sequence: Sequence, max_tokens: int) -> list[int]:
        index = self._indices.get(sequence) or self._indices.setdefault(sequence, NgramIndex(self._sizes))
        return index.follow(sequence.token_ids, max_tokens)


class NgramIndex:
    """The last occurrence of each n-gram of one growing list of tokens, as far as another token followed it.

    A new token is indexed once for each size; a draft takes one look-up for each size. The index grows with the list:
    at most one entry for each token and size, 0.5 kB a token for three sizes.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in sorted(sizes, reverse=True)}
        self._num_tokens = 0

    def follow(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """What followed the latest earlier occurrence of the longest n-gram at the end; the list has only grown."""
        self._extend(token_ids)
        for size, ends in self._ends.items():
            if end := ends.get(tuple(token_ids[-size:])):
                return _continuation(token_ids, end, max_tokens)
        return []

    def _extend(self, token_ids: list[int]) -> None:
        for size, ends in self._ends.items():
            start = max(0, self._num_tokens - size)  # the n-gram that ended the list is followed by a token now
            followed = token_ids[start:-1]
            ngrams = zip(*(followed[shift:] for shift in range(size)), strict=False)
            ends.update(zip(ngrams, count(start + size), strict=False))
        self._num_tokens = len(token_ids)


def _continuation(token_ids: list[int], end: int, max_tokens: int) -> list[int]:
    """The tokens from `end` on. Beyond the last one it is as if the text went on repeating itself, as in LZ77.
    It ends before an image, whose ids are negative."""
    period = len(token_ids) - end
    drafted = (token_ids[end + place % period] for place in range(max_tokens))
    return list(takewhile(lambda token_id: token_id >= 0, drafted))
