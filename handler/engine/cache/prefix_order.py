"""Which of many lists of tokens have most in common with another one's beginning, by their order. Pure code.

Where lists are sorted, those with the longest beginning in common with a new one lie beside the place where it would
be, and all that have equally much of it lie side by side. So it takes a binary search instead of a scan. Tokens are
compared as bytes, four each, the highest first: lists with a beginning in common lie together then too, and C compares
them.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from collections.abc import Sequence as List

TOKEN_BYTES = 4

Key = bytes | bytearray


def key_of(token_ids: List[int]) -> bytes:
    """The tokens as bytes, in their order."""
    return struct.pack(f">{len(token_ids)}i", *token_ids)


def longest_first(keys: List[Key], key: Key) -> Iterator[tuple[int, List[int]]]:
    """Of all sorted keys the indices, grouped by the number of tokens that they begin with in common with `key`, the
    most first. Within a group, those that have no further tokens come first."""
    low = high = bisect_left(keys, key)  # keys[low:high] are in the groups so far
    while low > 0 or high < len(keys):
        beside = [keys[place] for place in (low - 1, high) if 0 <= place < len(keys)]
        num_tokens = max(num_common(key, other) for other in beside)
        size = TOKEN_BYTES * num_tokens
        first = bisect_left(keys, key[:size], 0, low)
        last = bisect_right(keys, key[:size], high, key=lambda other: other[:size])
        yield num_tokens, [*range(first, low), *range(high, last)]
        low, high = first, last


def num_common(a: Key, b: Key) -> int:
    """Leading tokens that are equal. Bisects on slices, which C compares."""
    low, high = 0, min(len(a), len(b)) // TOKEN_BYTES
    if a[: TOKEN_BYTES * high] == b[: TOKEN_BYTES * high]:
        return high
    while high - low > 1:  # the first `low` tokens are equal, the first `high` are not
        middle = (low + high) // 2
        begin, end = TOKEN_BYTES * low, TOKEN_BYTES * middle
        if a[begin:end] == b[begin:end]:
            low = middle
        else:
            high = middle
    return low
