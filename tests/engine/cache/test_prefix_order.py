"""The longest beginning in common, found by order: what a scan over everything finds, with fewer comparisons."""

import random
from unittest.mock import patch

import pytest

from handler.engine.cache import prefix_order
from handler.engine.cache.prefix_order import key_of, longest_first, num_common
from handler.engine.cache.slot import Match, Slot
from handler.engine.cache.slot_table import SlotTable
from handler.engine.cache.split_cache import SplitCache
from handler.engine.prefilling import Prefilling
from handler.engine.scheduler import Limits, Scheduler
from tests.engine.cache_bench import tokens
from tests.engine.fakes import FakeRunner, MemoryKind, RecordingMemory
from tests.engine.test_scheduler import create_sequence
from tests.seeds import seeds

KINDS: tuple[MemoryKind, ...] = ("full", "recurrent", "stubborn", "split")


@pytest.mark.parametrize(
    ("a", "b", "length"),
    [("", "", 0), ("", "a", 0), ("a", "b", 0), ("abc", "abc", 3), ("abc", "abcd", 3), ("abxd", "abyd", 2)],
)
def test_tokens_in_common(a: str, b: str, length: int) -> None:
    """The number of equal tokens from the beginning, whichever list is longer."""
    assert num_common(key_of(tokens(a)), key_of(tokens(b))) == length
    assert num_common(key_of(tokens(b)), key_of(tokens(a))) == length


def test_every_border_is_found() -> None:
    """Also where two tokens differ in their last byte alone."""
    a = [1 << 20] * 50
    for length in range(50):
        assert num_common(key_of(a), key_of([*a[:length], (1 << 20) + 1, *a[length + 1 :]])) == length


@pytest.mark.parametrize("seed", seeds())
def test_groups_are_those_of_a_scan(seed: int) -> None:
    rng = random.Random(seed)
    lists = [random_list(rng) for _ in range(rng.randrange(20))]
    keys = sorted(map(key_of, lists))
    wanted = key_of(random_list(rng))
    groups = list(longest_first(keys, wanted))
    assert [num_tokens for num_tokens, _ in groups] == sorted({num_common(key, wanted) for key in keys}, reverse=True)
    for num_tokens, places in groups:
        assert sorted(places) == [place for place, key in enumerate(keys) if num_common(key, wanted) == num_tokens]
        sizes = [len(keys[place]) // 4 for place in places]
        assert num_tokens not in sizes[sizes.count(num_tokens) :], "those without further tokens come first"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", seeds())
def test_a_prefix_is_that_of_a_scan(kind: MemoryKind, seed: int) -> None:
    """As long, and taken whole where that is possible, whatever became of the slots before."""
    rng = random.Random(seed)
    memory = RecordingMemory(kind)
    table = SlotTable(memory, 6)
    for _ in range(60):
        change(table, memory, rng)
        prompt, min_shared = random_list(rng) or [0], rng.choice([1, 4])
        found, expected = table.find_prefix(prompt, None, min_shared), scan(table, prompt, min_shared)
        assert measures(found) == measures(expected)
        assert table.find_prefix(prompt, key_of(prompt), min_shared) == found


@pytest.mark.parametrize("seed", seeds())
def test_what_is_waited_for_is_that_of_a_scan(seed: int) -> None:
    rng = random.Random(seed)
    runner = FakeRunner()
    sequences = [create_sequence(runner, bytes([*random_list(rng), 1, 2]).decode()) for _ in range(rng.randrange(8))]
    for sequence in sequences:
        sequence.slot = Slot(0, token_ids=sequence.token_ids[: rng.randrange(sequence.num_tokens)])
    num_first = rng.randrange(len(sequences) + 1)
    prefilling = Prefilling(sequences[:num_first])
    for sequence in sequences[num_first:]:
        prefilling.add(sequence)
    for enough in range(1, 8):
        prompt = random_list(rng)
        assert prefilling.will_hold(key_of(prompt), enough) is any(
            num_common(sequence.key, key_of(prompt)) >= max(enough, sequence.num_computed_tokens + 1)
            for sequence in sequences
            if sequence.num_pending_tokens > 1
        )


def test_comparisons_do_not_grow_with_running_times_waiting() -> None:
    """Counted: some for each prompt that waits, however many run."""
    counts = {num_running: comparisons(num_running, num_waiting=40) for num_running in (4, 32)}
    assert 0 < counts[4] <= 10 * 40
    assert counts[32] <= 1.5 * counts[4]


def comparisons(num_running: int, num_waiting: int) -> int:
    """In a step in which all waiting prompts are looked at, and none may begin before another one's prefix is there."""
    num_slots = 4 * num_running
    runner = FakeRunner(kind="split", num_slots=num_slots, num_cells=num_slots * 1000)
    cache = SplitCache(runner.memory, num_slots=num_slots, num_cells=num_slots * 1000)
    scheduler = Scheduler(cache, Limits(num_running, num_running, num_running))
    systems = [f"the frame; {number} " + "s" * 200 for number in range(num_running)]
    for system in systems:
        scheduler.add(create_sequence(runner, system))
    scheduler.postprocess(batch := scheduler.schedule(), runner.run(batch))
    scheduler.limits = Limits(2 * num_running, num_running, num_running)
    for number in range(num_waiting):
        scheduler.add(create_sequence(runner, systems[number % num_running] + "more"))
    with patch.object(prefix_order, "num_common", wraps=num_common) as counted:
        scheduler.schedule()
    assert len(scheduler.waiting) == num_waiting
    return counted.call_count


def random_list(rng: random.Random) -> list[int]:
    """Of few tokens, so that many begin alike."""
    return rng.choices([97, 98], k=rng.randrange(12))


def change(table: SlotTable, memory: RecordingMemory, rng: random.Random) -> None:
    """Something that happens to a slot."""
    slot, source = rng.sample(table.slots, 2)
    what = rng.randrange(6)
    if what < 2:
        new = random_list(rng)
        memory.write(slot.seq_id, slot.num_tokens, new)
        table.append(slot, new)
    elif what == 2:
        table.truncate(slot, rng.randrange(slot.num_tokens + 1))
    elif what == 3:
        table.clear(slot)
        if memory.shares_prefixes and source.num_tokens:
            table.copy(Match(source, rng.randrange(1, source.num_tokens + 1)), slot)
    elif what == 4:
        table.restore(slot, new := random_list(rng), new)
    else:
        slot.is_claimed = not slot.is_claimed


def scan(table: SlotTable, prompt: list[int], min_shared: int) -> Match | None:
    """All slots, one after the other."""
    matches = [Match(slot, num_common(key_of(slot.token_ids), key_of(prompt[:-1]))) for slot in table.slots]
    usable = [
        match
        for match in matches
        if match.num_tokens
        and (match.num_tokens >= min_shared or match.takes_all)
        and (table.memory.shares_prefixes or not match.slot.is_claimed)
        and table.memory.can_resume(match.slot.seq_id, match.num_tokens)
    ]
    return max(usable, key=lambda match: (match.num_tokens, match.takes_all), default=None)


def measures(match: Match | None) -> tuple[int, bool] | None:
    return match and (match.num_tokens, match.takes_all)
