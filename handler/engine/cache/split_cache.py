"""A KV cache in which each slot has cells of its own: llama.cpp's, with one stream a sequence.

A step looks at a sequence's own cells instead of all, which makes steps of many sequences shorter. The price is room
for a whole context in every slot, and that a prefix is shared by copying it: all of a stream's cells, whatever is in
them, in about the time of a step. In return there is always room, and what finished conversations leave costs nothing.

Slots that run lie side by side (placement.py), so a slot may move: its content goes to another's place, and the two
change their seq_ids. Engine thread only.
"""

from collections.abc import Iterable

from handler.engine.cache import placement
from handler.engine.cache.kv_cache import KVCache, Match, Memory, Slot

MIN_COPIED = 64  # tokens: fewer are computed anew in less time
MIN_KEPT = 256  # tokens of a finished conversation that is moved away rather than forgotten


class SplitCache(KVCache):
    is_unified = False
    min_shared = MIN_COPIED

    def __init__(self, memory: Memory, *, num_slots: int, num_cells: int) -> None:
        super().__init__(memory, num_slots=num_slots, num_cells=num_cells)
        self._capacity = num_cells // num_slots  # tokens of a slot

    def has_room(self, num_tokens: int, promised: int, match: Match | None) -> bool:
        """Whoever has a slot has its cells."""
        return True

    def find_prefix(self, token_ids: list[int]) -> Match | None:
        """As ever, if it is worth a copy."""
        match = super().find_prefix(token_ids)
        return match if match and (match.takes_all or match.num_tokens >= MIN_COPIED) else None

    def expire(self, max_idle: int) -> None:
        """Finished conversations are in nobody's way."""

    def padding_slots(self, slots: Iterable[Slot]) -> list[Slot]:
        """Slots to compute an unwanted token in, so that those of a batch follow one another."""
        missing = placement.padding([slot.seq_id for slot in slots])
        return [slot for slot in self.slots if slot.seq_id in missing and slot.num_tokens < self._capacity]

    def compact(self) -> None:
        """Move one of the claimed slots nearer to the others, if they have come to lie too far apart."""
        claimed = {slot.seq_id: slot for slot in self.slots if slot.is_claimed}
        if not placement.is_scattered(claimed):
            return
        far = claimed.pop(placement.outermost(claimed))
        if (place := self._free_place(self._near(claimed), far)) is not None:
            self._move(far, place)

    def _choose_target(self, match: Match | None) -> Slot | None:
        near = self._near([slot.seq_id for slot in self.slots if slot.is_claimed])
        if match is None or not match.takes_all:
            return self._free_place(near, match.slot if match else None)
        if match.slot not in near and (place := self._free_place(near, match.slot)) is not None:
            self._move(match.slot, place)
        return match.slot

    def _near(self, claimed: Iterable[int]) -> list[Slot]:
        """Slots that nobody has claimed, beside those with these seq_ids or among them."""
        free = {slot.seq_id: slot for slot in self.slots if not slot.is_claimed}
        return [free[seq_id] for seq_id in placement.nearest(list(claimed), free)]

    def _free_place(self, slots: list[Slot], wanted: Slot | None) -> Slot | None:
        """One of these to be overwritten, rather not the wanted one. What is worth it goes elsewhere first."""
        slot = min(slots, key=lambda slot: (slot is wanted, not slot.is_empty, slot.last_used), default=None)
        if slot is None or slot is wanted or slot.num_tokens < MIN_KEPT:
            return slot
        if (spare := self._spare_for(slot, wanted)) is None:
            return slot
        self._move(slot, spare)
        return spare

    def _spare_for(self, slot: Slot, wanted: Slot | None) -> Slot | None:
        """A slot that is worth less than this one."""
        others = (other for other in self.slots if not other.is_claimed and other not in (slot, wanted))
        worth_less = (other for other in others if other.is_empty or other.last_used < slot.last_used)
        return min(worth_less, key=lambda other: (not other.is_empty, other.last_used), default=None)

    def _move(self, slot: Slot, place: Slot) -> None:
        """To another's place, which is forgotten and then lies, empty, where this one was."""
        self.clear(place)
        self._memory.copy(slot.seq_id, place.seq_id, slot.num_tokens)
        self._memory.clear(slot.seq_id)
        slot.seq_id, place.seq_id = place.seq_id, slot.seq_id

    def _copy(self, match: Match, target: Slot) -> None:
        self._memory.copy(match.slot.seq_id, target.seq_id, match.num_tokens)
        self.append([(target, match.slot.token_ids[: match.num_tokens])])
