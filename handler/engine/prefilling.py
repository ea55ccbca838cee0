"""Whether a prompt that waits begins like one that is being computed. Pure code."""

from bisect import bisect_left
from collections.abc import Iterable

from handler.engine.adapter_turns import Adapter
from handler.engine.cache.prefix_order import Key, longest_first
from handler.engine.sequence import Sequence


class Prefilling:
    """Running sequences whose prompts are being computed, in the order of their tokens. Lives no longer than one call
    of the scheduler: then their slots have grown."""

    def __init__(self, running: Iterable[Sequence], grid: int = 1) -> None:
        """`grid`: tokens of the parts that can be taken from them."""
        self._grid = grid
        self._sequences = sorted(filter(_is_prefilling, running), key=lambda sequence: sequence.key)
        self._keys: list[Key] = [sequence.key for sequence in self._sequences]

    def add(self, sequence: Sequence) -> None:
        """One that was just admitted."""
        if _is_prefilling(sequence):
            place = bisect_left(self._keys, sequence.key)
            self._sequences.insert(place, sequence)
            self._keys.insert(place, sequence.key)

    def will_hold(self, prompt: Key, num_tokens: int, adapter: Adapter = None) -> bool:
        """Whether one of them has yet to compute, with the adapter, tokens of a beginning in common whose parts are at
        least so long."""
        for num_common, places in longest_first(self._keys, prompt):
            num_whole = num_common // self._grid * self._grid
            if num_whole < num_tokens:
                return False
            others = [self._sequences[place] for place in places]
            if any(other.num_computed_tokens < num_whole and other.adapter == adapter for other in others):
                return True
        return False


def _is_prefilling(sequence: Sequence) -> bool:
    return sequence.num_pending_tokens > 1
