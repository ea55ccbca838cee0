"""Which slot a prompt gets, what of it is reused, and that every cell is accounted for."""

import random

import pytest

from handler.engine.cache.slot import Match, Slot
from handler.engine.cache.unified_cache import MIN_TRIM
from tests.engine.cache_bench import UnifiedBench, text, tokens
from tests.engine.fakes import Call, MemoryKind
from tests.seeds import seeds

KINDS: tuple[MemoryKind, ...] = ("full", "recurrent", "stubborn")


def test_longest_prefix_wins() -> None:
    """Of all slots, the one that holds most of the prompt is taken."""
    bench = UnifiedBench()
    bench.leave("abXY")
    longest = bench.leave("cdefXY")
    bench.leave("cdZZ")
    assert bench.cache.find_prefix(tokens("cdefg")) == Match(longest, 4)


def test_last_token_is_always_computed() -> None:
    """A prompt that is cached as a whole is reused but for its last token, whose logits are needed."""
    bench = UnifiedBench()
    slot = bench.leave("hello")
    assert bench.cache.find_prefix(tokens("hello")) == Match(slot, 4)
    assert bench.cache.find_prefix(tokens("h")) is None


def test_nothing_in_common() -> None:
    """Without a common beginning there is no match."""
    bench = UnifiedBench()
    bench.leave("hello")
    assert bench.cache.find_prefix(tokens("world")) is None


def test_claimed_source_is_copied() -> None:
    """A prefix that another sequence is using is shared, and both continue from it."""
    bench = UnifiedBench()
    first = bench.start("system one")
    second = bench.start("system two")
    assert bench.calls("copy") == [Call("copy", first.seq_id, 7, second.seq_id)]
    assert (text(first), text(second)) == ("system one", "system two")


def test_shared_cells_are_counted_once() -> None:
    """A shared prefix takes no room, and comes free with its last holder."""
    bench = UnifiedBench()
    first, second = bench.start("system one"), bench.start("system two")
    assert bench.cache.num_cells - bench.cache.num_free_cells == len("system one" + "two")
    bench.cache.release(first)
    bench.cache.clear(first)
    assert bench.cache.num_cells - bench.cache.num_free_cells == len("system two")
    bench.cache.release(second)
    bench.cache.clear(second)
    assert bench.cache.num_free_cells == bench.cache.num_cells


def test_whole_cached_slot_is_taken_in_place() -> None:
    """A continued conversation keeps its slot; nothing is copied."""
    bench = UnifiedBench()
    slot = bench.leave("user: hi")
    assert bench.start("user: hi there") is slot
    assert bench.calls("copy") == []


def test_cached_slot_is_preferred_to_a_copy() -> None:
    """Of two slots that hold equally much, the one that can be had with nothing lost is taken."""
    bench = UnifiedBench()
    claimed = bench.start("abcdX")
    cached = bench.leave("abcd")
    bench.memory.calls.clear()
    assert bench.start("abcdY") is cached
    assert bench.calls("copy") == []
    assert text(claimed) == "abcdX"


def test_part_of_a_cached_slot_is_copied_while_slots_are_empty() -> None:
    """The rest of a cached slot stays for others."""
    bench = UnifiedBench()
    slot = bench.leave("system one")
    other = bench.start("system two")
    assert other is not slot
    assert text(slot) == "system one"


def test_part_of_a_cached_slot_is_taken_when_no_other_is_free() -> None:
    """With no other slot to be had, what follows the prefix is dropped."""
    bench = UnifiedBench(num_slots=1)
    slot = bench.leave("system one")
    assert bench.start("system two") is slot
    assert bench.calls("truncate") == [Call("truncate", slot.seq_id, 7)]


def test_least_recently_used_slot_goes_first() -> None:
    """Without an empty slot, the one left longest ago is cleared."""
    bench = UnifiedBench(num_slots=2)
    first, second = bench.leave("aaaa"), bench.leave("bbbb")
    bench.leave("aaaaa")  # used again
    assert bench.start("cccc") is second
    assert text(first) == "aaaaa"


def test_what_is_not_continued_expires() -> None:
    """One slot at a time, the one that has waited longest, and not before its time; claimed ones never."""
    bench = UnifiedBench()
    running = bench.start("running")
    for name in ("first", "second"):
        bench.cache.tick(100)
        bench.leave(name)
    bench.cache.expire(102)
    assert len([slot for slot in bench.cache.slots if slot.is_empty]) == 1
    bench.cache.tick(200)
    bench.cache.expire(299)
    assert [text(slot) for slot in bench.cache.slots if not slot.is_empty] == ["running", "second"]
    bench.cache.expire(100)
    bench.cache.expire(0)
    bench.check()
    assert [slot for slot in bench.cache.slots if not slot.is_empty] == [running]


def test_no_slot_when_all_are_claimed() -> None:
    """What a sequence is using is never taken from it."""
    bench = UnifiedBench(num_slots=1)
    bench.start("aaaa")
    assert bench.cache.claim(None) is None


def test_claim_without_match_begins_empty() -> None:
    """What another sequence left in the slot is gone."""
    bench = UnifiedBench(num_slots=1)
    slot = bench.leave("aaaa")
    assert bench.cache.claim(None) is slot
    assert slot.is_empty
    bench.check()


def test_cached_slots_make_room() -> None:
    """The end of the least recently used slot goes first, a good piece at once."""
    bench = UnifiedBench(num_cells=1000)
    old, new = bench.leave("a" * 500), bench.leave("b" * 500)
    assert bench.cache.make_room(1)
    bench.check()
    assert (old.num_tokens, new.num_tokens) == (500 - MIN_TRIM, 500)
    assert bench.cache.num_free_cells == MIN_TRIM


def test_room_takes_as_many_slots_as_needed() -> None:
    """One slot after the other is evicted until there is room."""
    bench = UnifiedBench(num_cells=1000)
    old, new = bench.leave("a" * 500), bench.leave("b" * 500)
    assert bench.cache.make_room(600)
    bench.check()
    assert (old.num_tokens, new.num_tokens) == (0, 500 - MIN_TRIM)


def test_no_room_beside_claimed_slots() -> None:
    """False when everything that may be forgotten is, and it is not enough."""
    bench = UnifiedBench(num_cells=100)
    bench.start("a" * 60)
    bench.leave("b" * 20)
    assert not bench.cache.make_room(50)
    assert bench.cache.num_free_cells == 40
    bench.check()


def test_room_under_shared_cells() -> None:
    """A cached slot that shares all its cells frees nothing, and the next one is evicted."""
    bench = UnifiedBench(num_cells=100)
    source = bench.leave("a" * 41)
    bench.start("a" * 40 + "b")
    bench.leave("c" * 50)
    assert bench.cache.make_room(30)
    bench.check()
    assert source.is_empty


def test_unclaimed_cells() -> None:
    """What could be had without a preemption: free cells and those of cached slots, less what is shared."""
    bench = UnifiedBench(num_cells=100)
    first = bench.start("system one")
    bench.leave("system two")
    assert bench.cache.num_unclaimed_cells == 90
    bench.cache.release(first)
    assert bench.cache.num_unclaimed_cells == 100


def test_reset_forgets_everything() -> None:
    """After a reset the cache is as new."""
    bench = UnifiedBench()
    bench.leave("aaaa")
    bench.leave("bbbb")
    bench.cache.reset()
    bench.check()
    assert bench.cache.num_free_cells == bench.cache.num_cells
    assert bench.cache.find_prefix(tokens("aaaa")) is None


def test_memory_that_refuses_to_truncate_is_cleared() -> None:
    """Then the prompt is computed from its beginning."""
    bench = UnifiedBench("stubborn", num_slots=1)
    bench.leave("system one")
    slot = bench.cache.claim(bench.cache.find_prefix(tokens("system two")))
    assert slot is not None
    assert slot.is_empty
    bench.check()


def test_recurrent_memory_goes_on_from_its_end() -> None:
    """A slot whose every token begins the prompt is continued in place."""
    bench = UnifiedBench("recurrent")
    slot = bench.leave("user: hi")
    assert bench.cache.find_prefix(tokens("user: hi there")) == Match(slot, 8)
    assert bench.start("user: hi there") is slot


@pytest.mark.parametrize("prompt", ["user: ho", "user: hi", "user:"])
def test_recurrent_memory_cannot_go_back(prompt: str) -> None:
    """A slot that would have to be rolled back is of no use, and a shorter one that fits is."""
    bench = UnifiedBench("recurrent")
    bench.leave("user: hi")
    assert bench.cache.find_prefix(tokens(prompt)) is None
    short = bench.leave("use")
    assert bench.cache.find_prefix(tokens(prompt)) == Match(short, 3)


def test_recurrent_memory_shares_nothing() -> None:
    """A claimed slot is no source of a prefix."""
    bench = UnifiedBench("recurrent")
    bench.start("system")
    assert bench.cache.find_prefix(tokens("system one")) is None
    bench.start("system one")
    assert bench.calls("copy") == []


def test_recurrent_memory_is_evicted_whole() -> None:
    """What cannot be trimmed is cleared."""
    bench = UnifiedBench("recurrent", num_cells=1000)
    slot = bench.leave("a" * 1000)
    assert bench.cache.make_room(1)
    assert slot.is_empty
    bench.check()


def test_integrity_finds_a_lost_cell() -> None:
    """The check fails when a cell is in no list."""
    bench = UnifiedBench()
    slot = bench.leave("aaaa")
    bench.cache._cells[slot.seq_id].pop()
    with pytest.raises(AssertionError, match="a token without a cell"):
        bench.cache.check_integrity()
    slot.token_ids.pop()
    with pytest.raises(AssertionError, match="holders miscounted"):
        bench.cache.check_integrity()


@pytest.mark.parametrize("seed", seeds())
def test_random_traffic(seed: int) -> None:
    """Whatever comes and goes, the cache knows what memory holds, cell by cell, and nothing is left at the end."""
    rng, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    bench = UnifiedBench(kind, num_slots=5, num_cells=900)
    claimed: list[Slot] = []
    for _ in range(300):
        if claimed and rng.random() < 0.5:
            slot = claimed.pop(rng.randrange(len(claimed)))
            if rng.random() < 0.3:
                bench.cache.clear(slot)
            bench.cache.release(slot)
        elif len(claimed) < 5:
            prompt = "ab" * rng.randrange(50) + "".join(rng.choices("ab", k=rng.randrange(1, 50)))
            claimed.append(bench.start(prompt))
        bench.check()
    for slot in claimed:
        bench.cache.release(slot)
    bench.cache.reset()
    bench.check()
    assert bench.cache.num_free_cells == bench.cache.num_cells
