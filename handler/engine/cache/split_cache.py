"""A KV cache in which each slot has cells of its own: llama.cpp's with `kv_unified` off.

Attention of a step looks at a sequence's own cells instead of all, which makes steps of many sequences shorter. The
price is room for a whole context in every slot, and that a prefix is shared by copying it: all of the slot's cells,
whatever is in them, in about the time of a step. In return there is always room, and cached conversations cost nothing.

Claimed slots are kept adjacent (placement.py), so a slot may move: its content is copied to another's seq_id, and the
two swap their seq_ids.
"""

from collections.abc import Iterable

from handler.engine.adapter_turns import Adapter
from handler.engine.cache import placement
from handler.engine.cache.memory import Memory
from handler.engine.cache.slot import Match, P, Slot
from handler.engine.cache.slot_table import SlotTable

MIN_COPIED = 64  # tokens: fewer are computed anew in less time
MIN_KEPT = 256  # tokens of a cached conversation that is moved rather than overwritten


class SplitCache:
    """A `KVCache`. Owns its slots. Engine thread only."""

    min_shared = MIN_COPIED

    def __init__(self, memory: Memory, *, num_slots: int, num_cells: int) -> None:
        self.num_cells = num_cells
        self._capacity = num_cells // num_slots  # tokens of a slot
        self._memory = memory
        self._table = SlotTable(memory, num_slots)
        self._window = placement.Window(num_slots)

    @property
    def slots(self) -> list[Slot]:
        return self._table.slots

    @property
    def shares_prefixes(self) -> bool:
        return self._memory.shares_prefixes

    @property
    def num_free_cells(self) -> int:
        return self.num_cells - sum(len(slot.token_ids) for slot in self.slots)

    def prepare_step(self) -> None:
        """Compact: move one claimed slot nearer to the others, if they have come to lie too far apart."""
        claimed = {slot.seq_id: slot for slot in self.slots if slot.is_claimed}
        if not self._window.is_loose(claimed):
            return
        far = claimed.pop(placement.outermost(claimed))
        if (place := self._free_place(self._near(claimed), far)) is not None:
            self._move(far, place)

    def find_prefix(self, token_ids: list[int], key: bytes | None = None, *, adapter: Adapter = None) -> Match | None:
        return self._table.find_prefix(token_ids, key, MIN_COPIED, adapter=adapter)

    def find_exact_prefix(self, token_ids: list[int], grid: int, *, adapter: Adapter = None) -> Match | None:
        return self._table.find_exact_prefix(token_ids, grid, adapter=adapter)

    def has_room(self, num_tokens: int, promised: int, match: Match | None) -> bool:
        """Always: a slot comes with cells for the longest sequence."""
        return True

    def make_room(self, num_cells: int) -> bool:
        """Always, for the same reason."""
        return True

    def claim(self, match: Match | None, adapter: Adapter = None) -> Slot | None:
        """A slot beside the claimed ones; a cached conversation that is continued is moved there."""
        near = self._near([slot.seq_id for slot in self.slots if slot.is_claimed])
        if match is None or not match.takes_all:
            slot = self._free_place(near, match.slot if match else None)
        else:
            slot = match.slot
            if slot not in near and (place := self._free_place(near, slot)) is not None:
                self._move(slot, place)
        if slot is None:
            return None
        slot.is_claimed = True
        slot.adapter = adapter
        if match is not None and slot is match.slot:
            self._table.truncate(slot, match.num_tokens)
            return slot
        self.clear(slot)
        if match is not None:
            self._table.copy(match, slot)
        return slot

    def release(self, slot: Slot) -> None:
        self._table.release(slot)

    def evict(self, num_cells: int) -> bool:
        slot = self._table.least_recently_used()
        if slot is None:
            return False
        self.clear(slot)
        return True

    def arrange(self, items: list[P]) -> list[Slot]:
        """In the order of their seq_ids; while sequences generate, the rest of the window is padded.

        A cached conversation that has no cell left for a discarded token is evicted: it could not be continued.
        """
        used = {item.slot.seq_id: item for item in items}
        items[:] = [used[seq_id] for seq_id in sorted(used)]
        if not any(item.num_rows == 1 for item in items):
            return []
        window = self._window.covering(used)
        if len(used) == len(window):
            return []
        padded = [slot for slot in self.slots if slot.seq_id in window and slot.seq_id not in used]
        for slot in padded:
            if slot.num_tokens >= self._capacity and not slot.is_claimed:
                self.clear(slot)
        return [slot for slot in padded if slot.num_tokens < self._capacity]

    def append(self, computed: Iterable[tuple[Slot, list[int]]]) -> None:
        for slot, token_ids in computed:
            self._table.append(slot, token_ids)
            assert len(slot.token_ids) <= self._capacity, "more than a slot has cells for"

    def adopt(self, slot: Slot, token_ids: list[int], state: object) -> bool:
        return self._table.restore(slot, token_ids, state)

    def drop_rest(self, slot: Slot) -> None:
        self._table.drop_rest(slot)

    def mark_exact(self, slot: Slot) -> None:
        slot.num_exact = slot.num_tokens

    def tick(self, num_tokens: int) -> None:
        self._table.clock += num_tokens

    def clear(self, slot: Slot) -> None:
        """Forget all of a slot."""
        self._table.clear(slot)

    def reset(self) -> None:
        for slot in self.slots:
            self.clear(slot)

    def check_integrity(self) -> None:
        assert sorted(slot.seq_id for slot in self.slots) == list(range(len(self.slots))), "a seq_id twice"
        assert all(slot.num_tokens <= self._capacity for slot in self.slots), "more than a slot has cells for"

    def _near(self, claimed: Iterable[int]) -> list[Slot]:
        """Unclaimed slots that leave the fewest gaps beside those with these seq_ids, if possible within the window."""
        free = {slot.seq_id: slot for slot in self.slots if not slot.is_claimed}
        taken = list(claimed)
        near = placement.nearest(taken, free)
        inside = [seq_id for seq_id in near if seq_id in self._window] if taken else []
        return [free[seq_id] for seq_id in inside or near]

    def _free_place(self, slots: list[Slot], wanted: Slot | None) -> Slot | None:
        """One of these to be overwritten, preferably not the wanted one. A long conversation in it is moved first."""
        slot = min(slots, key=lambda slot: (slot is wanted, not slot.is_empty, slot.last_used), default=None)
        if slot is None or slot is wanted or slot.num_tokens < MIN_KEPT:
            return slot
        if (spare := self._spare_for(slot, wanted)) is None:
            return slot
        self._move(slot, spare)
        return spare

    def _spare_for(self, slot: Slot, wanted: Slot | None) -> Slot | None:
        """An unclaimed slot that is empty or was used less recently than this one."""
        others = (other for other in self.slots if not other.is_claimed and other not in (slot, wanted))
        worth_less = (other for other in others if other.is_empty or other.last_used < slot.last_used)
        return min(worth_less, key=lambda other: (not other.is_empty, other.last_used), default=None)

    def _move(self, slot: Slot, place: Slot) -> None:
        """Give a slot the seq_id of another one, which is emptied and gets this one's."""
        self.clear(place)
        self._memory.copy(slot.seq_id, place.seq_id, slot.num_tokens)
        self._memory.clear(slot.seq_id)
        slot.seq_id, place.seq_id = place.seq_id, slot.seq_id
