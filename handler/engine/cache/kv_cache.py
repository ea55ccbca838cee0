"""Which tokens lie in which slot of the KV cache: what the scheduler may ask of it, whichever of the two kinds it is.

UnifiedCache   all slots share cells; a prefix is shared by reference, and cells can run out
SplitCache     each slot has cells of its own; a prefix is shared by copying, and there is always room
"""

from collections.abc import Iterable
from typing import Protocol

from handler.engine.adapter_turns import Adapter
from handler.engine.cache.memory import Memory
from handler.engine.cache.slot import Match, P, Slot
from handler.engine.cache.split_cache import SplitCache
from handler.engine.cache.unified_cache import UnifiedCache


class KVCache(Protocol):
    """Decides what stays cached and where; its `Memory` does it. Engine thread only. Knows nothing of sequences.

    A cell is the room of one token.
    """

    min_shared: int  # tokens of a prefix that is worth waiting for while another sequence computes it
    num_cells: int

    @property
    def slots(self) -> list[Slot]: ...

    @property
    def num_free_cells(self) -> int: ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether a prompt can reuse the beginning of a slot that another sequence has claimed."""
        ...

    # Before a step

    def prepare_step(self) -> None:
        """The housekeeping that pays by now; called once before each step is scheduled."""
        ...

    def find_prefix(self, token_ids: list[int], key: bytes | None = None, *, adapter: Adapter = None) -> Match | None:
        """The longest beginning of a prompt that is worth reusing, as the adapter computes it; its last token is never
        part of it. `key`: that of the tokens (prefix_order.py), if it is known."""
        ...

    def find_exact_prefix(self, token_ids: list[int], grid: int, *, adapter: Adapter = None) -> Match | None:
        """The same of what `mark_exact` has named, in parts of so many tokens."""
        ...

    def has_room(self, num_tokens: int, promised: int, match: Match | None) -> bool:
        """Whether a prompt fits beside what claimed slots hold and the cells promised to them."""
        ...

    def claim(self, match: Match | None, adapter: Adapter = None) -> Slot | None:
        """A slot that begins with the match, for one sequence to append to what the adapter computes; None if all are
        claimed."""
        ...

    def make_room(self, num_cells: int) -> bool:
        """Free at least that many cells, by evicting cached slots; False if that is not enough."""
        ...

    def evict(self, num_cells: int) -> bool:
        """Drop the end of the least recently used cached slot, at least so many tokens; False if nothing is cached."""
        ...

    def arrange(self, items: list[P]) -> list[Slot]:
        """Sort a batch's items, in place, as llama.cpp computes them best; return the slots to pad between them."""
        ...

    # After a step

    def append(self, computed: Iterable[tuple[Slot, list[int]]]) -> None:
        """Note tokens that were just computed, each in a claimed slot. `make_room` was called before."""
        ...

    def adopt(self, slot: Slot, token_ids: list[int], state: object) -> bool:
        """Take a prompt that a prefill context has computed into an empty claimed slot; False if that fails."""
        ...

    def drop_rest(self, slot: Slot) -> None:
        """Remove what was computed in a claimed slot behind the tokens that were noted: rejected drafts."""
        ...

    def mark_exact(self, slot: Slot) -> None:
        """Note that all tokens of a claimed slot were computed as every exact sequence computes them."""
        ...

    def tick(self, num_tokens: int) -> None:
        """Advance the clock by so many generated tokens."""
        ...

    def release(self, slot: Slot) -> None:
        """Its sequence is over; the tokens stay cached."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def check_integrity(self) -> None:
        """Raise AssertionError unless every cell is accounted for."""
        ...


def create_cache(memory: Memory, *, num_slots: int, num_cells: int, max_idle: int | None = None) -> KVCache:
    """The kind that fits the memory. `max_idle`: see UnifiedCache."""
    if memory.is_unified:
        return UnifiedCache(memory, num_slots=num_slots, num_cells=num_cells, max_idle=max_idle)
    return SplitCache(memory, num_slots=num_slots, num_cells=num_cells)
