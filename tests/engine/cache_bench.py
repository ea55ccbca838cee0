"""A cache under test, and texts as its tokens."""

from typing import Generic, TypeVar

from handler.engine.cache.slot import Slot
from handler.engine.cache.split_cache import SplitCache
from handler.engine.cache.unified_cache import UnifiedCache
from tests.engine.fakes import Call, MemoryKind, RecordingMemory

C = TypeVar("C", UnifiedCache, SplitCache)


class Bench(Generic[C]):
    """A cache over a recording memory, which it must agree with after everything it does."""

    def __init__(self, cache: type[C], kind: MemoryKind, *, num_slots: int, num_cells: int) -> None:
        self.memory = RecordingMemory(kind)
        self.cache: C = cache(self.memory, num_slots=num_slots, num_cells=num_cells)

    def start(self, text: str) -> Slot:
        """Admit a prompt and compute it."""
        slot = self.cache.claim(self.cache.find_prefix(tokens(text)))
        assert slot is not None
        self.compute(slot, text[slot.num_tokens :])
        return slot

    def compute(self, slot: Slot, text: str) -> None:
        assert self.cache.make_room(len(text))
        self.memory.write(slot.seq_id, slot.num_tokens, tokens(text))
        self.cache.append([(slot, tokens(text))])
        self.check()

    def leave(self, text: str) -> Slot:
        """A sequence that came, computed and went."""
        slot = self.start(text)
        self.cache.release(slot)
        self.check()
        return slot

    def check(self) -> None:
        self.cache.check_integrity()
        assert [slot.token_ids for slot in self.cache.slots] == [
            self.memory.token_ids(slot.seq_id) for slot in self.cache.slots
        ]
        assert self.cache.num_cells - self.cache.num_free_cells == self.memory.num_used_cells

    def calls(self, name: str) -> list[Call]:
        return [call for call in self.memory.calls if call.name == name]


class UnifiedBench(Bench[UnifiedCache]):
    def __init__(self, kind: MemoryKind = "full", *, num_slots: int = 4, num_cells: int = 2000) -> None:
        super().__init__(UnifiedCache, kind, num_slots=num_slots, num_cells=num_cells)


def tokens(text: str) -> list[int]:
    return list(text.encode())


def text(slot: Slot) -> str:
    return bytes(slot.token_ids).decode()
