"""Which seq_ids the claimed slots of a SplitCache have, and which of them a step computes. Arithmetic alone.

llama.cpp computes sequences with a buffer each in one piece only where their seq_ids are consecutive; at a gap it
begins a new piece and reads all weights once more. And it reuses the graph of the step before, which saves building and
launching it anew, only where seq_ids and outputs are the same. So claimed slots are kept adjacent, and a step computes
a whole `Window` of seq_ids, which changes rarely: slots without a token of their own get one that is discarded.
"""

from collections.abc import Collection, Iterable

SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)  # tile widths of the kernels
PATIENCE = 32  # steps that a smaller window must suffice for: to change it costs about as much as to pad it so long


class Window:
    """The seq_ids that a step computes, a range that grows at once and shrinks late."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._range = range(0)
        self._num_smaller = 0  # steps in a row for which a smaller one would have sufficed
        self._num_loose = 0  # steps in a row for which a smaller one would do if the claimed slots were adjacent

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._range

    def covering(self, seq_ids: Collection[int]) -> range:
        """The window for a step that has these seq_ids, at least one."""
        low, high = min(seq_ids), max(seq_ids) + 1
        size = min(self._num_slots, _size(high - low))
        covers = self._range.start <= low and high <= self._range.stop
        self._num_smaller = self._num_smaller + 1 if covers and size < len(self._range) else 0
        if not covers or self._num_smaller >= PATIENCE:
            start = min(low, self._num_slots - size)
            self._range, self._num_smaller = range(start, start + size), 0
        return self._range

    def is_loose(self, claimed: Collection[int]) -> bool:
        """Whether moving a slot pays: gaps as such are only padded, but they have made the window larger for long."""
        span = len(claimed) + num_gaps(claimed)
        self._num_loose = self._num_loose + 1 if claimed and _size(span) > _size(len(claimed)) else 0
        return self._num_loose >= PATIENCE


def _size(num_seq_ids: int) -> int:
    return next(size for size in SIZES if size >= num_seq_ids)


def num_gaps(seq_ids: Collection[int]) -> int:
    """The number of seq_ids missing between the lowest and the highest."""
    return max(seq_ids) - min(seq_ids) + 1 - len(seq_ids) if seq_ids else 0


def nearest(claimed: Collection[int], seq_ids: Iterable[int]) -> list[int]:
    """Those of `seq_ids` that would leave the fewest gaps beside the claimed ones; all of them if none is claimed."""
    if not claimed:
        return list(seq_ids)
    low, high = min(claimed), max(claimed)
    spans = {seq_id: max(high, seq_id) - min(low, seq_id) for seq_id in seq_ids}
    fewest = min(spans.values(), default=0)
    return [seq_id for seq_id, span in spans.items() if span == fewest]


def outermost(seq_ids: Collection[int]) -> int:
    """The first or the last of at least two, whichever is farther from its neighbour."""
    ordered = sorted(seq_ids)
    return ordered[0] if ordered[1] - ordered[0] > ordered[-1] - ordered[-2] else ordered[-1]
