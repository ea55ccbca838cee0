"""A cache with cells for each slot alone: running slots lie side by side, and what is worth keeping is kept."""

import random
from typing import NamedTuple

import pytest

from handler.engine.cache import placement
from handler.engine.cache.slot import Slot
from handler.engine.cache.split_cache import MIN_COPIED, MIN_KEPT, SplitCache
from handler.engine.scheduler import Limits, Scheduler
from tests.engine.cache_bench import Bench, text, tokens
from tests.engine.fakes import Call, FakeRunner
from tests.engine.test_scheduler import create_sequence
from tests.seeds import seeds

CAPACITY = 600
LONG = "a conversation that is worth keeping, " * 10
assert MIN_KEPT < len(LONG) < CAPACITY


class Item(NamedTuple):
    """What a batch has of a slot."""

    slot: Slot
    num_rows: int = 1


class SplitBench(Bench[SplitCache]):
    def __init__(self, num_slots: int = 4) -> None:
        super().__init__(SplitCache, "split", num_slots=num_slots, num_cells=num_slots * CAPACITY)

    def check(self) -> None:
        super().check()
        assert max(slot.num_tokens for slot in self.cache.slots) <= CAPACITY
        assert sorted(slot.seq_id for slot in self.cache.slots) == list(range(len(self.cache.slots)))

    def padding(self, slots: list[Slot]) -> list[Slot]:
        """What would be padded in a batch of these."""
        return self.cache.arrange([Item(slot) for slot in slots])

    @property
    def running(self) -> list[int]:
        return sorted(slot.seq_id for slot in self.cache.slots if slot.is_claimed)

    @property
    def cached(self) -> list[str]:
        return [text(slot) for slot in self.cache.slots if not slot.is_claimed and not slot.is_empty]

    def copies(self) -> list[Call]:
        return self.calls("copy")


def test_running_slots_lie_side_by_side() -> None:
    """Whatever else is cached."""
    bench = SplitBench(8)
    for name in "abcdefgh":
        bench.leave(name * 5)
    for name in "ijkl":
        bench.start(name * 5)
    assert placement.num_gaps(bench.running) == 0


def test_a_hole_is_filled_first() -> None:
    """The next prompt goes where one among the running ones has finished."""
    bench = SplitBench(6)
    slots = [bench.start(name * 5) for name in "abc"]
    hole = slots[1].seq_id
    bench.cache.release(slots[1])
    assert slots[1] in bench.padding([slots[0], slots[2]])
    assert bench.start("new").seq_id == hole
    assert placement.num_gaps(bench.running) == 0


def test_a_long_conversation_makes_way_and_stays() -> None:
    """What lies in the hole is moved where there is place, and found there."""
    bench = SplitBench(6)
    slots = [bench.start(name * 5) for name in "a" + "b"] + [bench.start(LONG), bench.start("c")]
    bench.cache.release(slots[2])
    bench.start("new")
    assert placement.num_gaps(bench.running) == 0
    assert LONG in bench.cached
    assert bench.start(LONG + "and on").num_tokens == len(LONG) + 6
    assert [call.num_tokens for call in bench.copies()].count(len(LONG)) >= 1


def test_a_short_one_is_forgotten() -> None:
    """To compute it anew takes less time than a copy."""
    bench = SplitBench(6)
    slots = [bench.start(name * 5) for name in "abc"]
    bench.cache.release(slots[1])
    bench.start("new")
    assert bench.cached == []
    assert bench.copies() == []


def test_a_conversation_goes_on_in_place_if_nothing_runs() -> None:
    """Wherever it lies."""
    bench = SplitBench()
    for name in "abcd":
        bench.leave(name + LONG)
    slot = bench.start("c" + LONG + "and on")
    assert text(slot) == "c" + LONG + "and on"
    assert bench.copies() == []


def test_a_conversation_goes_on_beside_the_others() -> None:
    """It is moved to them, and leaves nothing where it was."""
    bench = SplitBench(6)
    slots = [bench.start(name + LONG) for name in "abcdef"]
    for slot in slots[:5]:
        bench.cache.release(slot)
    far = bench.start("a" + LONG + "and on")
    assert text(far) == "a" + LONG + "and on"
    assert placement.num_gaps(bench.running) == 0
    assert "a" + LONG not in bench.cached


def test_a_prefix_is_copied_and_its_owner_keeps_it() -> None:
    """Running or finished."""
    bench = SplitBench()
    system = "s" * MIN_COPIED
    first = bench.start(system + "one")
    second = bench.start(system + "two")
    assert [call.num_tokens for call in bench.copies()] == [MIN_COPIED]
    assert (text(first), text(second)) == (system + "one", system + "two")


def test_a_short_prefix_is_computed_anew() -> None:
    """A copy takes as long as the computation of more."""
    bench = SplitBench()
    bench.start("s" * MIN_COPIED + "one")
    assert bench.cache.find_prefix(tokens("s" * (MIN_COPIED - 1) + "two")) is None


def test_scattered_slots_are_compacted() -> None:
    """After a while, by one move a step; nothing of the running ones is lost."""
    bench = SplitBench(8)
    slots = [bench.start(f"{name} talks") for name in "abcdefgh"]
    for slot in slots[1:7]:
        bench.cache.release(slot)
    for _ in range(placement.PATIENCE):
        assert placement.num_gaps(bench.running) == 6
        bench.cache.prepare_step()
        bench.check()
    assert placement.num_gaps(bench.running) == 0
    assert [text(slots[0]), text(slots[7])] == ["a talks", "h talks"]
    assert len(bench.copies()) == 1


def test_a_full_conversation_among_running_ones_is_evicted() -> None:
    """There is no cell in it for a discarded token, and it could not be continued anyway."""
    bench = SplitBench(3)
    slots = [bench.start("a"), bench.start("b" * CAPACITY), bench.start("c")]
    bench.cache.release(slots[1])
    assert bench.padding([slots[0], slots[2]]) == [slots[1]]
    assert slots[1].is_empty
    bench.check()


def test_prompts_alone_are_not_padded() -> None:
    """A window is for sequences that generate: among prompts each padded token would begin a piece of its own."""
    bench = SplitBench(4)
    slots = [bench.start("a"), bench.start("b")]
    assert bench.cache.arrange([Item(slot, num_rows=7) for slot in slots]) == []


def test_a_prompt_that_was_computed_elsewhere() -> None:
    """Its tokens are in the slot then, and serve as a prefix like any others."""
    bench = SplitBench(4)
    slot = bench.cache.claim(None)
    assert slot is not None
    prompt = "p" * MIN_COPIED
    assert bench.cache.adopt(slot, tokens(prompt), tokens(prompt))
    bench.check()
    assert text(bench.start(prompt + "and on")) == prompt + "and on"


@pytest.mark.parametrize("seed", seeds())
def test_random_use(seed: int) -> None:
    """Hundreds of prompts come and go: our count and the memory agree, and few gaps are left."""
    rng, bench = random.Random(seed), SplitBench(rng_slots := 4 + seed % 9)
    running: list[Slot] = []
    for _ in range(200):
        if running and rng.random() < 0.45:
            bench.cache.release(running.pop(rng.randrange(len(running))))
        elif len(running) < rng_slots:
            prompt = rng.choice("abc") * rng.choice([3, 90, 300]) + rng.choice("xyz") * rng.randrange(1, 200)
            running.append(bench.start(prompt))
            assert text(running[-1]) == prompt
        bench.cache.prepare_step()
        bench.check()
        assert bench.running == sorted(slot.seq_id for slot in running)
        seq_ids = [*bench.running, *(slot.seq_id for slot in bench.padding(running))]
        assert placement.num_gaps(seq_ids) == 0 or any(slot.num_tokens == CAPACITY for slot in bench.cache.slots)


@pytest.mark.parametrize("seed", seeds())
def test_batches_have_no_gaps(seed: int) -> None:
    """Scheduled at random, with aborts: texts are right, and each batch lies in one piece."""
    rng, num_slots = random.Random(seed), 8
    runner = FakeRunner(kind="split", num_slots=num_slots, num_cells=num_slots * 256, max_model_len=256)
    cache = SplitCache(runner.memory, num_slots=num_slots, num_cells=num_slots * 256)
    scheduler = Scheduler(cache, Limits(5, 64, 16))
    waiting = [create_sequence(runner, f"{rng.randrange(3)}" * 70 + f"{i}", max_tokens=9) for i in range(30)]
    everyone = list(waiting)
    while waiting or scheduler.has_work:
        if waiting and rng.random() < 0.5:
            scheduler.add(waiting.pop())
        elif scheduler.running and rng.random() < 0.1:
            scheduler.abort(rng.choice(scheduler.running))
        if scheduler.has_work:
            batch = scheduler.schedule()
            seq_ids = [item.slot.seq_id for item in batch.items]
            assert seq_ids == sorted(seq_ids)
            assert placement.num_gaps([*seq_ids, *(slot.seq_id for slot in batch.padding_slots)]) == 0
            assert not {slot.seq_id for slot in batch.padding_slots} & set(seq_ids)
            scheduler.postprocess(batch, runner.run(batch))
            cache.check_integrity()
    for sequence in everyone:
        prompt = bytes(sequence.token_ids[: sequence.num_prompt_tokens]).decode()
        answer = bytes(sequence.token_ids[sequence.num_prompt_tokens :]).decode()
        assert runner.answer(prompt, len(answer)) == answer
    assert sum(len(sequence.token_ids) - sequence.num_prompt_tokens == 9 for sequence in everyone) > 15
