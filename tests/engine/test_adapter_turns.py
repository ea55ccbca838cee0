"""Sequences with different adapters take turns, and share nothing."""

import random
from itertools import groupby

import pytest

from handler.engine.adapter_turns import TURN_STEPS, Adapter, AdapterTurns
from handler.engine.batch import Batch
from handler.engine.cache.kv_cache import create_cache
from handler.engine.prefill_queue import Prefill, PrefillQueue
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from tests.engine.fakes import FakeRunner, FakeSampler, MemoryKind, as_text, create_engine
from tests.engine.test_scheduler import Bench, create_scheduler

ADAPTERS: tuple[Adapter, ...] = (None, "a", "b")


def add(bench: Bench, prompt: str, adapter: Adapter, *, max_tokens: int = 8) -> Sequence:
    sequence = Sequence(
        list(prompt.encode()),
        SamplingParams(max_tokens=max_tokens),
        vocabulary=bench.runner.vocabulary,
        max_num_tokens=bench.runner.max_model_len,
        sampler=FakeSampler(prompt, []),
        adapter=adapter,
    )
    bench.scheduler.add(sequence)
    return sequence


def assert_answered(bench: Bench, sequence: Sequence) -> None:
    prompt = as_text(sequence.token_ids[: sequence.num_prompt_tokens])
    expected = bench.runner.answer(prompt, sequence.params.max_tokens or 0, sequence.adapter)
    assert bench.text(sequence) == expected


def turns(batches: list[Batch]) -> list[tuple[Adapter, int]]:
    """Whose turns there were, and how many steps each had."""
    return [(adapter, len(list(steps))) for adapter, steps in groupby(batch.adapter for batch in batches)]


def test_one_adapter_is_served_all_the_time() -> None:
    """Nothing waits where nothing else is wanted."""
    served = AdapterTurns()
    for _ in range(3 * TURN_STEPS):
        assert served.choose({"a"}) == "a"
        served.note_step()
    assert served.choose(set()) == "a"


def test_the_least_recently_served_comes_next() -> None:
    """Each turn is as long as the others', and ends early where there is nothing to compute in it."""
    served = AdapterTurns()
    order = []
    for _ in range(4 * TURN_STEPS):
        order.append(served.choose({None, "a", "b"}))
        served.note_step()
    assert [adapter for adapter, _ in groupby(order)] == [None, "a", "b", None]
    assert served.choose({None, "a", "b"}) == "a"
    assert served.choose({"b"}) == "b"


def test_asking_twice_changes_nothing() -> None:
    """A step may ask again when it has admitted sequences."""
    served = AdapterTurns()
    for _ in range(TURN_STEPS):
        served.choose({None, "a"})
        served.note_step()
    assert [served.choose({None, "a"}) for _ in range(3)] == 3 * ["a"]


def test_turns_of_sixteen_steps() -> None:
    """Two adapters and the model as it is, at the same time."""
    bench = create_scheduler()
    sequences = [add(bench, f"prompt {adapter}", adapter, max_tokens=40) for adapter in ADAPTERS]
    batches = bench.finish()
    for sequence in sequences:
        assert_answered(bench, sequence)
    order = turns(batches)
    assert [number for _, number in order[:6]] == 6 * [TURN_STEPS]
    assert [adapter for adapter, _ in order[:6]] == 2 * [None, "a", "b"]


def test_no_turn_where_one_has_nothing_to_do() -> None:
    """A short answer's steps are all that it takes."""
    bench = create_scheduler()
    add(bench, "short", "a", max_tokens=3)
    long = add(bench, "long", None, max_tokens=60)
    batches = bench.finish()
    assert_answered(bench, long)
    assert sum(number for adapter, number in turns(batches) if adapter == "a") == 3
    assert len(batches) == 63


@pytest.mark.parametrize("kind", ["full", "split", "recurrent"])
def test_a_cached_prefix_is_of_its_adapter(kind: MemoryKind) -> None:
    """The same prompt is computed once for each adapter; the fake memory would not append to another's cells."""
    bench = create_bench(kind)
    prompt = "system prompt, the same for all; " * 3
    for adapter in ADAPTERS:
        add(bench, prompt, adapter)
        bench.finish()
    for adapter in ADAPTERS:
        sequence = add(bench, prompt + "and more", adapter)
        bench.finish()
        assert_answered(bench, sequence)
        assert sequence.num_cached_tokens == (0 if kind == "recurrent" else len(prompt))


def test_no_sequence_waits_for_another_adapter_s_prefill() -> None:
    """It could not use it."""
    bench = create_scheduler(max_batch_tokens=64)
    prompt = "system prompt, the same for all; " * 8
    first, other = add(bench, prompt, None), add(bench, prompt, "a")
    bench.step()
    assert bench.scheduler.running == [first, other]
    bench.finish()
    assert_answered(bench, other)


def create_bench(kind: MemoryKind, num_cells: int = 2000) -> Bench:
    runner = FakeRunner(
        kind=kind, num_slots=5, num_cells=num_cells, max_model_len=min(num_cells // 5, 400) if kind == "split" else 150
    )
    cache = create_cache(runner.memory, num_slots=5, num_cells=num_cells, max_idle=200)
    return Bench(Scheduler(cache, Limits(4, 64, 16, max_idle=200, max_burst_tokens=60)), runner)


@pytest.mark.parametrize("kind", ["full", "split", "recurrent", "stubborn"])
def test_random_traffic(kind: MemoryKind) -> None:
    """In caches that are too small, with aborts: every text is that of its adapter, and all of them end."""
    for seed in range(15):
        draw = random.Random(seed)
        bench = create_bench(kind, num_cells=draw.choice((600, 700, 2000)))
        sequences = []
        for _ in range(15):
            prompt = draw.choice("pq") * draw.randint(1, 60) + draw.choice("rs") * draw.randint(1, 20)
            sequences.append(add(bench, prompt, draw.choice(ADAPTERS), max_tokens=draw.randint(1, 30)))
            if draw.random() < 0.2:
                bench.scheduler.abort(sequences.pop(draw.randrange(len(sequences))))
            bench.steps(draw.randint(0, 4) if bench.scheduler.has_work else 0)
        bench.finish()
        for sequence in sequences:
            assert_answered(bench, sequence)


def test_a_part_of_the_prefill_lane_is_of_one_adapter() -> None:
    """The first prompt's; the others follow in their order."""
    queue = PrefillQueue(num_streams=4, num_cells=1000)
    bench = create_scheduler()
    prompts = [("p" * 50, "a"), ("q" * 60, None), ("r" * 70, "a")]
    for prompt, adapter in prompts:
        sequence = add(bench, prompt, adapter)
        queue.add(Prefill(sequence, sequence.token_ids[:-1]))
    part = queue.next_part(200)
    assert [(piece.prefill.sequence.adapter, len(piece.token_ids)) for piece in part] == [("a", 49), ("a", 69)]


async def test_an_engine_generates_with_an_adapter() -> None:
    """As it was asked to, for all choices."""
    runner = FakeRunner()
    engine = create_engine(runner)
    try:
        params = SamplingParams(max_tokens=6)
        outputs = await (await engine.generate(["hello"], params, n=2, adapter="a")).result()
        assert [output.text for output in outputs] == 2 * [runner.answer("hello", 6, "a")]
    finally:
        engine.close()
