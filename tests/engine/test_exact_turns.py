"""Sequences that are computed by themselves: what a step of theirs holds, and what they may reuse."""

import random
from collections.abc import Callable

import pytest

from handler.engine.batch import Batch
from handler.engine.cache.split_cache import SplitCache
from handler.engine.prefill_lane import NoPrefillLane
from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from handler.engine.speculative.speculation import DraftLimits, Speculation
from tests.engine.fake_drafters import RandomDrafter
from tests.engine.fakes import FakeRunner
from tests.engine.test_prefill_lane import HandLane
from tests.engine.test_scheduler import create_sequence
from tests.seeds import seeds

GRID = 64
CAPACITY = 600
LONG = "a prompt of more than two parts, which others may begin with too; " * 3
assert 3 * GRID < len(LONG) < 4 * GRID

Part = tuple[int, int]  # position of the first token, and number of tokens


class Stage:
    """A scheduler on a fake model with cells for each slot, and the parts that each sequence was computed in."""

    def __init__(self, num_slots: int = 6, *, grid: int = GRID, lane: HandLane | None = None) -> None:
        num_cells = num_slots * CAPACITY
        self.runner = FakeRunner(kind="split", num_slots=num_slots, num_cells=num_cells, max_model_len=CAPACITY)
        cache = SplitCache(self.runner.memory, num_slots=num_slots, num_cells=num_cells)
        limits = Limits(num_slots, 256, 16, max_burst_tokens=64, exact_grid=grid)
        self.scheduler = Scheduler(cache, limits, lane or NoPrefillLane())
        self.parts: dict[Sequence, list[Part]] = {}
        self.before_collect: Callable[[Batch], None] = lambda batch: None

    def add(self, prompt: str, *, seed: int | None = None, max_tokens: int = 4) -> Sequence:
        sequence = create_sequence(self.runner, prompt, max_tokens=max_tokens, seed=seed)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        batch = self.scheduler.schedule()
        self.before_collect(batch)
        for item in batch.items:
            self.parts.setdefault(item.sequence, []).append((item.start, item.num_rows))
        if any(item.sequence.params.seed is not None for item in batch.items):
            assert len(batch.items) == 1, "an exact sequence is computed by itself"
            assert not batch.padding_slots
            assert not batch.has_drafts
        self.scheduler.postprocess(batch, self.runner.run(batch))
        self.scheduler.cache.check_integrity()
        return [item.sequence for item in batch.items]

    def finish(self) -> list[list[Sequence]]:
        steps = []
        while self.scheduler.has_work:
            steps.append(self.step())
        return steps

    def answer(self, sequence: Sequence) -> str:
        return bytes(sequence.token_ids[sequence.num_prompt_tokens :]).decode()


def parts_alone(num_prompt_tokens: int, num_answered: int) -> set[Part]:
    starts = range(0, num_prompt_tokens, GRID)
    of_prompt = {(start, min(GRID, num_prompt_tokens - start)) for start in starts}
    return of_prompt | {(num_prompt_tokens + number, 1) for number in range(num_answered - 1)}


def test_a_prompt_is_cut_at_multiples_of_the_grid_and_an_answer_into_tokens() -> None:
    stage = Stage()
    exact = stage.add("p" * 150, seed=1, max_tokens=3)
    stage.finish()
    assert stage.parts[exact] == [(0, 64), (64, 64), (128, 22), (150, 1), (151, 1)]


def test_each_round_has_a_step_for_each_exact_sequence_and_one_for_the_others() -> None:
    """Nothing is padded or drafted in the former, and the others are computed together as ever."""
    stage = Stage()
    talking, more = stage.add("talk", max_tokens=20), stage.add("more", max_tokens=20)
    stage.step()
    one, two = stage.add("one", seed=1), stage.add("two", seed=1)
    assert [stage.step() for _ in range(6)] == 2 * [[talking, more], [one], [two]]


def test_without_others_exact_sequences_take_turns() -> None:
    stage = Stage()
    one, two = stage.add("one", seed=1), stage.add("two", seed=1)
    assert [stage.step() for _ in range(4)] == 2 * [[one], [two]]


def test_a_seed_counts_at_any_temperature() -> None:
    """Greedy answers depend on the last bits too, where two tokens are as likely."""
    stage = Stage()
    sequence = create_sequence(stage.runner, "greedy", max_tokens=4, seed=1, temperature=0)
    stage.scheduler.add(sequence)
    other = stage.add("other")
    assert [stage.step(), stage.step()] == [[other], [sequence]]


def test_without_the_setting_seeded_sequences_are_computed_with_the_others() -> None:
    stage = Stage(grid=0)
    sequences = [stage.add("one"), stage.add("two")]
    for _ in range(2):
        stage.step()
    sequences.append(create_sequence(stage.runner, "three", seed=1))
    stage.scheduler.add(sequences[-1])
    batch = stage.scheduler.schedule()
    assert [item.sequence for item in batch.items] == sequences


def test_whole_parts_of_a_prompt_are_reused() -> None:
    """By a later turn of the chat: not the rest of the prompt, nor the answer, which were computed in other shapes."""
    stage = Stage()
    first = stage.add(LONG, seed=1)
    stage.finish()
    again = stage.add(LONG + stage.answer(first) + " and more" * 10, seed=1)
    stage.finish()
    assert again.num_cached_tokens == 3 * GRID
    assert stage.parts[again][0] == (3 * GRID, 64)


def test_what_others_computed_is_not_reused() -> None:
    """Nor what they have added to a slot that an exact sequence has begun."""
    stage = Stage()
    stage.add(LONG)
    stage.finish()
    fresh = stage.add(LONG + "!" * 200, seed=1)
    stage.finish()
    assert fresh.num_cached_tokens == 0

    stage = Stage()
    stage.add(LONG[: GRID + 1], seed=1, max_tokens=1)
    stage.finish()
    assert stage.add(LONG).params.seed is None
    stage.finish()
    exact = stage.add(LONG, seed=1)
    stage.finish()
    assert exact.num_cached_tokens == GRID


def test_others_may_reuse_what_an_exact_sequence_computed() -> None:
    """All of it, as from any other."""
    stage = Stage()
    first = stage.add(LONG, seed=1)
    stage.finish()
    turn = stage.add(LONG + stage.answer(first)[:3] + "?")
    stage.finish()
    assert turn.num_cached_tokens == len(LONG) + 3


def test_a_scored_prompt_is_cut_by_the_rows_of_a_step() -> None:
    """And its parts, which have logits, are not reused."""
    stage = Stage(grid=4 * MAX_SCORED_TOKENS)
    params = SamplingParams(max_tokens=2, seed=1, num_prompt_logprobs=0)
    prompt = list(b"p" * (MAX_SCORED_TOKENS + 30))
    for _ in range(2):
        scored = Sequence(prompt, params, vocabulary=stage.runner.vocabulary, max_num_tokens=CAPACITY)
        stage.scheduler.add(scored)
        stage.finish()
        assert stage.parts[scored] == [(0, MAX_SCORED_TOKENS), (MAX_SCORED_TOKENS, 30), (MAX_SCORED_TOKENS + 30, 1)]


def test_choices_of_one_prompt_compute_its_whole_parts_once() -> None:
    """The others wait for the first one, and compute the rest each by itself."""
    stage = Stage()
    choices = [stage.add(LONG, seed=seed) for seed in range(4)]
    stage.finish()
    assert [choice.num_cached_tokens for choice in choices] == [0] + 3 * [3 * GRID]
    assert all(stage.answer(choice) == stage.runner.answer(LONG, 4) for choice in choices)


def test_exact_sequences_wait_only_for_what_they_may_take() -> None:
    """Not for another's beginning that is no whole part, nor for what is computed with the others, or scored."""
    for prompt, seed, num_scored in ((LONG[: GRID - 1] + "!" * 90, 1, None), (LONG, None, None), (LONG, 1, 0)):
        stage = Stage()
        params = SamplingParams(max_tokens=4, seed=seed, num_prompt_logprobs=num_scored)
        first = Sequence(list(prompt.encode()), params, vocabulary=stage.runner.vocabulary, max_num_tokens=CAPACITY)
        stage.scheduler.add(first)
        exact = stage.add(LONG, seed=2)
        stage.step()
        assert exact in stage.scheduler.running


def test_a_prompt_that_ends_with_a_part_keeps_it_to_itself() -> None:
    """Its last part has logits, which makes it another graph than that of a longer prompt."""
    stage = Stage()
    stage.add(LONG[: 2 * GRID], seed=1)
    stage.finish()
    longer = stage.add(LONG, seed=1)
    stage.finish()
    assert longer.num_cached_tokens == GRID


def test_after_a_preemption_an_answer_is_computed_anew_as_it_was() -> None:
    """Token by token, not as a prompt, and its whole parts are found again."""
    stage = Stage()
    exact = stage.add("p" * 100, seed=1, max_tokens=6)
    while exact.num_completion_tokens < 3:
        stage.step()
    stage.parts.clear()
    stage.scheduler._preempt(exact)
    stage.finish()
    assert stage.parts[exact] == [(64, 36), (100, 1), (101, 1), (102, 1), (103, 1), (104, 1)]
    assert stage.answer(exact) == stage.runner.answer("p" * 100, 6)


def test_an_aborted_sequence_loses_its_turn() -> None:
    stage = Stage()
    one, two = stage.add("one", seed=1), stage.add("two", seed=1)
    assert stage.step() == [one]
    stage.scheduler.abort(two)
    assert stage.step() == [one]


def test_exact_prompts_do_not_go_to_the_lane() -> None:
    """It computes in other shapes, and may have other weights."""
    lane = HandLane()
    stage = Stage(lane=lane)
    talking = stage.add("talk", max_tokens=30)
    while talking.num_completion_tokens < 2:
        stage.step()
    exact = stage.add("e" * 200, seed=1)
    plain = stage.add("p" * 200)
    stage.step()
    assert [prefill.sequence for prefill in lane.submitted] == [plain]
    lane.finish(0)
    stage.finish()
    assert stage.parts[exact][:4] == [(0, 64), (64, 64), (128, 64), (192, 8)]


def test_exact_sequences_are_never_drafted_for() -> None:
    """How many tokens a draft has depends on what the others leave room for."""
    stage = Stage()
    speculation = Speculation(RandomDrafter(), DraftLimits(4, 4, 64))
    stage.before_collect = lambda batch: speculation.add_drafts(batch, stage.scheduler.cache)
    exact, other = stage.add("exact", seed=1, max_tokens=12), stage.add("other", max_tokens=12)
    stage.finish()
    assert {length for _, length in stage.parts[exact][1:]} == {1}
    assert {length for _, length in stage.parts[other][1:]} != {1}


@pytest.mark.parametrize("seed", seeds())
def test_what_an_exact_sequence_computes_depends_on_itself_alone(seed: int) -> None:
    """In any traffic: its parts are those that it has alone, but for the first ones, where they were reused."""
    rng = random.Random(seed)
    stage = Stage(num_slots=5)
    exact: dict[Sequence, str] = {}
    for _ in range(12):
        begins = LONG[: rng.choice([0, 30, 64, 100, 150])]
        prompt = begins + "".join(rng.choices("abc", k=rng.randint(1, 200)))
        is_exact = rng.random() < 0.5
        sequence = stage.add(prompt, seed=7 if is_exact else None, max_tokens=rng.randint(1, 12))
        if is_exact:
            exact[sequence] = prompt
        for _ in range(rng.randint(0, 12)):
            if stage.scheduler.has_work:
                stage.step()
        if rng.random() < 0.1 and stage.scheduler.running:
            stage.scheduler._preempt(rng.choice(stage.scheduler.running))
    stage.finish()
    for sequence, prompt in exact.items():
        num_answered = sequence.num_completion_tokens
        assert stage.answer(sequence) == stage.runner.answer(prompt, num_answered)
        assert set(stage.parts[sequence]) <= parts_alone(len(prompt), num_answered)
        assert sequence.num_cached_tokens % GRID == 0
