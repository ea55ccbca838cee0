"""Which seq_ids the claimed slots of a SplitCache should have. Arithmetic alone.

llama.cpp computes sequences with a buffer each in one piece only where their seq_ids are consecutive; at a gap it
begins a new piece and reads all weights once more. So claimed slots are kept adjacent as far as possible, and the gaps
that are left are padded with tokens whose results are discarded, which costs less.
"""

from collections.abc import Collection, Iterable
from itertools import pairwise

MAX_PADDED = 24  # seq_ids of a gap: on an H100 each costs 0.1 to 0.4 ms a step, a new piece 3 to 5 ms
MAX_GAPS = 0.25  # of the claimed slots: more are worth 4 ms once, to move a slot


def num_gaps(seq_ids: Collection[int]) -> int:
    """The number of seq_ids missing between the lowest and the highest."""
    return max(seq_ids) - min(seq_ids) + 1 - len(seq_ids) if seq_ids else 0


def nearest(claimed: Collection[int], seq_ids: Iterable[int]) -> list[int]:
    """Those of `seq_ids` that would leave the fewest gaps beside the claimed ones; all of them if none is claimed."""
    gaps = {seq_id: num_gaps([*claimed, seq_id]) for seq_id in seq_ids}
    return [seq_id for seq_id, num in gaps.items() if num == min(gaps.values())]


def padding(seq_ids: Iterable[int]) -> list[int]:
    """The seq_ids missing in gaps that are worth padding."""
    gaps = (range(a + 1, b) for a, b in pairwise(sorted(seq_ids)))
    return [seq_id for gap in gaps if len(gap) <= MAX_PADDED for seq_id in gap]


def is_scattered(seq_ids: Collection[int]) -> bool:
    """Whether moving a slot costs less than computing with these gaps."""
    return num_gaps(seq_ids) > MAX_GAPS * len(seq_ids)


def outermost(seq_ids: Collection[int]) -> int:
    """The first or the last of at least two, whichever is farther from its neighbour."""
    ordered = sorted(seq_ids)
    return ordered[0] if ordered[1] - ordered[0] > ordered[-1] - ordered[-2] else ordered[-1]
