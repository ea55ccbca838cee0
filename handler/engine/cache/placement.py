"""Where running slots lie among all, by their seq_ids. Arithmetic alone.

llama.cpp computes sequences that have a stream of the cache each in one go only where their seq_ids follow one another;
at a gap it begins anew and reads all weights once more. So running slots lie side by side as far as they can, and a gap
that is left is padded with tokens that nobody wants, which costs less.
"""

from collections.abc import Collection, Iterable
from itertools import pairwise

MAX_PADDED = 24  # seq_ids of a gap: on an H100 each costs 0.1 to 0.4 ms a step, to begin anew 3 to 5 ms
MAX_GAPS = 0.25  # of the running slots: more are worth 4 ms once, to move a slot


def num_gaps(seq_ids: Collection[int]) -> int:
    """How many are missing between the lowest and the highest."""
    return max(seq_ids) - min(seq_ids) + 1 - len(seq_ids) if seq_ids else 0


def nearest(running: Collection[int], seq_ids: Iterable[int]) -> list[int]:
    """Those with which the running ones would have the fewest gaps. All, if none runs."""
    gaps = {seq_id: num_gaps([*running, seq_id]) for seq_id in seq_ids}
    return [seq_id for seq_id, num in gaps.items() if num == min(gaps.values())]


def padding(seq_ids: Iterable[int]) -> list[int]:
    """What is missing in gaps that are worth filling."""
    gaps = (range(a + 1, b) for a, b in pairwise(sorted(seq_ids)))
    return [seq_id for gap in gaps if len(gap) <= MAX_PADDED for seq_id in gap]


def is_scattered(seq_ids: Collection[int]) -> bool:
    """Whether it would be cheaper to move a slot than to go on like this."""
    return num_gaps(seq_ids) > MAX_GAPS * len(seq_ids)


def outermost(seq_ids: Collection[int]) -> int:
    """The first or the last, whichever is farther from the others. There are two at least."""
    ordered = sorted(seq_ids)
    return ordered[0] if ordered[1] - ordered[0] > ordered[-1] - ordered[-2] else ordered[-1]
