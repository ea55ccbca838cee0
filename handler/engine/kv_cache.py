"""Which tokens lie in which slot, and how many cells of the KV cache they take.

A slot is one llama.cpp seq_id. It is

    claimed   by exactly one running sequence, which appends to it
    cached    finished; its tokens stay for whoever begins with the same ones, least recently used goes first
    empty

Slots share cells: a prefix copied from one slot to another takes no room in llama.cpp's unified cache. So cells are
counted here one by one, under numbers of our own; llama.cpp places tokens where it likes, only the counts agree:

    free      in no slot
    used      in at least one slot
    claimed   in at least one claimed slot: cannot be had back without preempting a sequence

KVCache decides, `Memory` does. Engine thread only. Knows nothing of sequences.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

MIN_TRIM = 256  # cells taken from a cached slot at once, so that a full cache is not trimmed cell by cell


class Memory(Protocol):
    """llama.cpp's memory of one context. Slots are named by their seq_id."""

    @property
    def shares_prefixes(self) -> bool:
        """Whether the beginning of any slot can be copied to another; if not, slots can only be gone on from."""
        ...

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        """Whether a sequence may go on after the first `num_tokens` tokens of this slot.

        False where the state at that point is gone: recurrent models keep only their latest state, sliding windows
        only the latest tokens.
        """
        ...

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Make `target`, which is empty, begin with the first tokens of `source`."""
        ...

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        """Forget all but the first tokens; False if this memory cannot, and then nothing has changed."""
        ...

    def clear(self, seq_id: int) -> None: ...


@dataclass(eq=False, slots=True)
class Slot:
    """One seq_id and the tokens computed in it, one cell each."""

    seq_id: int
    token_ids: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    is_claimed: bool = False
    last_used: int = 0

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_empty(self) -> bool:
        return not self.token_ids


class Match(NamedTuple):
    """The slot that holds the longest usable beginning of a prompt."""

    slot: Slot
    num_tokens: int


class KVCache:
    def __init__(self, memory: Memory, *, num_slots: int, num_cells: int) -> None:
        self.num_cells = num_cells
        self.slots = [Slot(seq_id) for seq_id in range(num_slots)]
        self._memory = memory
        self._free_cells = list(range(num_cells))
        self._num_holders = np.zeros(num_cells, np.int32)  # slots that hold a cell
        self._num_claims = np.zeros(num_cells, np.int32)  # claimed slots that hold it
        self._clock = 0

    @property
    def shares_prefixes(self) -> bool:
        return self._memory.shares_prefixes

    @property
    def num_free_cells(self) -> int:
        return len(self._free_cells)

    @property
    def num_unclaimed_cells(self) -> int:
        """Cells that are free or would be if every cached slot were cleared."""
        return self.num_cells - int(np.count_nonzero(self._num_claims))

    def find_prefix(self, token_ids: list[int]) -> Match | None:
        """The longest beginning of a prompt that a slot holds and a sequence can go on from.

        One token less than the prompt at most: the last must be computed, for its logits.
        """
        candidates = (slot for slot in self.slots if self.shares_prefixes or not slot.is_claimed)
        matches = [Match(slot, common_prefix_length(slot.token_ids, token_ids[:-1])) for slot in candidates]
        matches.sort(key=_preference, reverse=True)
        usable = (match for match in matches if self._memory.can_resume(match.slot.seq_id, match.num_tokens))
        best = next(usable, None)
        return best if best and best.num_tokens else None

    def claim(self, match: Match | None) -> Slot | None:
        """A slot that begins with the match, for one sequence to append to; None if all are claimed.

        A cached slot is taken as it is when nothing of it is lost or no other can be had; otherwise its prefix is
        copied, so that the rest of it stays for others.
        """
        slot = self._choose_target(match)
        if slot is None:
            return None
        slot.is_claimed = True
        self._num_claims[slot.cells] += 1
        if match is None:
            self.clear(slot)
        elif slot is match.slot:
            self.truncate(slot, match.num_tokens)
        else:
            self.clear(slot)
            self._copy(match, slot)
        return slot

    def release(self, slot: Slot) -> None:
        """The sequence is over; its tokens stay."""
        self._clock += 1
        slot.last_used = self._clock
        slot.is_claimed = False
        self._num_claims[slot.cells] -= 1

    def append(self, slot: Slot, token_ids: list[int]) -> None:
        """Note tokens that were just computed. The caller made room."""
        start = len(self._free_cells) - len(token_ids)
        assert start >= 0, "no room was made"
        cells = self._free_cells[start:]
        del self._free_cells[start:]
        self._num_holders[cells] = 1
        self._num_claims[cells] = 1
        slot.token_ids += token_ids
        slot.cells += cells

    def make_room(self, num_cells: int) -> bool:
        """Free at least that many cells by forgetting cached slots; False if that is not enough."""
        while self.num_free_cells < num_cells:
            if not self.evict(num_cells - self.num_free_cells):
                return False
        return True

    def evict(self, num_cells: int) -> bool:
        """Forget the end of the least recently used cached slot; False if nothing is cached.

        Cells it shares with other slots stay with them, so fewer than asked for may come free.
        """
        slot = self._least_recently_used()
        if slot is None:
            return False
        self.truncate(slot, slot.num_tokens - max(num_cells, MIN_TRIM))
        return True

    def truncate(self, slot: Slot, num_tokens: int) -> None:
        """Keep the first tokens, or nothing where no sequence could go on from there."""
        if num_tokens == slot.num_tokens:
            return
        seq_id = slot.seq_id
        if num_tokens > 0 and self._memory.can_resume(seq_id, num_tokens) and self._memory.truncate(seq_id, num_tokens):
            self._forget(slot, num_tokens)
        else:
            self.clear(slot)

    def clear(self, slot: Slot) -> None:
        self._memory.clear(slot.seq_id)
        self._forget(slot, 0)

    def reset(self) -> None:
        """Forget everything."""
        for slot in self.slots:
            self.clear(slot)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every cell is accounted for."""
        holders = np.zeros_like(self._num_holders)
        claims = np.zeros_like(self._num_claims)
        for slot in self.slots:
            assert len(slot.cells) == slot.num_tokens, "a token without a cell"
            holders[slot.cells] += 1
            claims[slot.cells] += slot.is_claimed
        assert (holders == self._num_holders).all(), "holders miscounted"
        assert (claims == self._num_claims).all(), "claims miscounted"
        assert not holders[self._free_cells].any(), "a free cell is held"
        assert np.count_nonzero(holders) + self.num_free_cells == self.num_cells, "a cell is lost"

    def _choose_target(self, match: Match | None) -> Slot | None:
        if match and (_takes_all(match) or not self.shares_prefixes):
            return match.slot
        return next((slot for slot in self.slots if slot.is_empty and not slot.is_claimed), self._least_recently_used())

    def _least_recently_used(self) -> Slot | None:
        cached = (slot for slot in self.slots if not slot.is_claimed and not slot.is_empty)
        return min(cached, key=lambda slot: slot.last_used, default=None)

    def _copy(self, match: Match, target: Slot) -> None:
        self._memory.copy(match.slot.seq_id, target.seq_id, match.num_tokens)
        target.token_ids = match.slot.token_ids[: match.num_tokens]
        target.cells = match.slot.cells[: match.num_tokens]
        self._num_holders[target.cells] += 1
        self._num_claims[target.cells] += 1

    def _forget(self, slot: Slot, num_tokens: int) -> None:
        dropped: npt.NDArray[np.intp] = np.array(slot.cells[num_tokens:], np.intp)
        del slot.token_ids[num_tokens:], slot.cells[num_tokens:]
        self._num_holders[dropped] -= 1
        if slot.is_claimed:
            self._num_claims[dropped] -= 1
        self._free_cells += dropped[self._num_holders[dropped] == 0].tolist()


def _takes_all(match: Match) -> bool:
    """Whether the slot can be had with nothing of it lost."""
    return not match.slot.is_claimed and match.num_tokens == match.slot.num_tokens


def _preference(match: Match) -> tuple[int, bool]:
    return match.num_tokens, _takes_all(match)


def common_prefix_length(a: list[int], b: list[int]) -> int:
    """Halving on slices: comparing lists runs in C, a loop over tokens does not."""
    low, high = 0, min(len(a), len(b))
    if a[:1] != b[:1]:
        return 0
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] == b[:low], a[:high] != b[:high]
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
