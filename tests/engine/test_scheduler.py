"""What a step computes: order, room, preemption. The fake model proves that no text suffers."""

import random
from dataclasses import dataclass, field

import pytest

from handler.engine.batch import Batch
from handler.engine.cache.unified_cache import UnifiedCache
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import MARGIN, Limits, Outputs, Scheduler
from handler.engine.sequence import FinishReason, Sequence, SequenceOutput, SequenceStatus, SequenceUsage
from handler.errors import EngineError
from tests.engine.fakes import FakeRunner, FakeSampler, MemoryKind
from tests.seeds import seeds

KINDS: tuple[MemoryKind, ...] = ("full", "recurrent", "stubborn")

SHARED = "s" * UnifiedCache.min_shared  # a beginning worth waiting for


@dataclass
class Bench:
    """A scheduler, a model without arithmetic, and what came out for each sequence."""

    scheduler: Scheduler
    runner: FakeRunner
    outputs: dict[Sequence, list[SequenceOutput]] = field(default_factory=dict)

    def add(self, prompt: str, *, max_tokens: int | None = 8, seed: int | None = None) -> Sequence:
        sequence = create_sequence(self.runner, prompt, max_tokens=max_tokens, seed=seed)
        self.scheduler.add(sequence)
        return sequence

    def run_at_once(self, prompt: str, *, max_tokens: int = 8) -> Sequence:
        """A running sequence for which no room was asked: admission would leave a margin."""
        sequence = create_sequence(self.runner, prompt, max_tokens=max_tokens)
        sequence.slot = self.scheduler.cache.claim(None)
        sequence.status = SequenceStatus.RUNNING
        self.scheduler.running.append(sequence)
        return sequence

    def step(self) -> Batch:
        batch = self.scheduler.schedule()
        self.note(self.scheduler.postprocess(batch, self.runner.run(batch)))
        self.check()
        return batch

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.step()

    def finish(self) -> list[Batch]:
        """Step until there is no work."""
        batches = []
        while self.scheduler.has_work:
            batches.append(self.step())
        return batches

    def note(self, outputs: Outputs) -> None:
        for sequence, output in outputs:
            self.outputs.setdefault(sequence, []).append(output or sequence.write())

    def text(self, sequence: Sequence) -> str:
        return "".join(output.text for output in self.outputs.get(sequence, []))

    def check(self) -> None:
        scheduler, cache = self.scheduler, self.scheduler.cache
        cache.check_integrity()
        assert cache.num_cells - cache.num_free_cells == self.runner.memory.num_used_cells
        assert len(scheduler.running) <= scheduler.limits.max_num_seqs
        assert all(sequence.status is SequenceStatus.RUNNING and sequence.slot for sequence in scheduler.running)
        assert all(sequence.status is SequenceStatus.WAITING and not sequence.slot for sequence in scheduler.waiting)
        assert {slot.seq_id for slot in cache.slots if slot.is_claimed} == {
            sequence.slot.seq_id for sequence in scheduler.running if sequence.slot
        }


def create_scheduler(
    *,
    kind: MemoryKind = "full",
    num_slots: int = 4,
    num_cells: int = 1000,
    max_batch_tokens: int = 64,
    max_prompt_tokens: int = 16,
    max_idle: int | None = None,
    max_burst_tokens: int = 0,
) -> Bench:
    runner = FakeRunner(kind=kind, num_slots=num_slots, num_cells=num_cells)
    cache = UnifiedCache(runner.memory, num_slots=num_slots, num_cells=num_cells, max_idle=max_idle)
    limits = Limits(num_slots, max_batch_tokens, max_prompt_tokens, max_idle, max_burst_tokens)
    return Bench(Scheduler(cache, limits), runner)


def create_sequence(
    runner: FakeRunner,
    prompt: str,
    *,
    max_tokens: int | None = None,
    seed: int | None = None,
    temperature: float = 0.8,
) -> Sequence:
    return Sequence(
        list(prompt.encode()),
        SamplingParams(max_tokens=max_tokens, seed=seed, temperature=temperature),
        vocabulary=runner.vocabulary,
        max_num_tokens=runner.max_model_len,
        sampler=FakeSampler(prompt, []),
    )


def shares(batch: Batch) -> list[tuple[Sequence, int]]:
    return [(item.sequence, item.num_tokens) for item in batch.items]


def assert_answered(bench: Bench, sequence: Sequence, num_tokens: int = 8) -> None:
    """It ended by its length with the text that a fresh cache would have given."""
    prompt = bytes(sequence.token_ids[: sequence.num_prompt_tokens]).decode()
    assert bench.text(sequence) == bench.runner.answer(prompt, num_tokens)
    assert bench.outputs[sequence][-1].finish_reason is FinishReason.LENGTH


def test_no_work_no_batch() -> None:
    """Without sequences there is nothing to compute."""
    bench = create_scheduler()
    assert not bench.scheduler.has_work
    assert bench.scheduler.schedule().items == []


def test_one_sequence_from_prompt_to_end() -> None:
    """The prompt is computed at once, then one token a step, until the answer is as long as asked."""
    bench = create_scheduler()
    sequence = bench.add("hello", max_tokens=3)
    assert [batch.num_tokens for batch in bench.finish()] == [5, 1, 1]
    assert_answered(bench, sequence, 3)


def test_long_prompt_alone_fills_the_batch() -> None:
    """With no other sequence to stall, a prompt takes as much of each step as there is."""
    bench = create_scheduler(max_batch_tokens=64, max_prompt_tokens=16)
    bench.add("p" * 150, max_tokens=1)
    assert [batch.num_tokens for batch in bench.finish()] == [64, 64, 22]


def test_generating_sequences_come_first_and_prompts_are_limited_beside_them() -> None:
    """A long prompt does not stall the others' tokens: every step has one for each of them, and a chunk of it."""
    bench = create_scheduler(max_batch_tokens=64, max_prompt_tokens=16)
    talking = bench.add("hello", max_tokens=20)
    bench.step()
    long = bench.add("p" * 40)
    assert [shares(bench.step()) for _ in range(3)] == [
        [(talking, 1), (long, 16)],
        [(talking, 1), (long, 16)],
        [(talking, 1), (long, 8)],
    ]


def test_a_burst_is_prefilled_before_it_decodes() -> None:
    """A burst is computed in whole batches; then all generate side by side, to the end."""
    bench = create_scheduler(max_batch_tokens=64, max_prompt_tokens=16, max_burst_tokens=1000)
    sequences = [bench.add(letter * 50) for letter in "abc"]
    batches = bench.finish()
    assert [batch.num_tokens for batch in batches[:3]] == [64, 64, 22]
    assert all(shares(batch) == [(sequence, 1) for sequence in sequences] for batch in batches[3:])
    assert len(batches) == 3 + 7
    for sequence in sequences:
        assert_answered(bench, sequence)


def test_waiting_for_a_burst_has_an_end() -> None:
    """Sequences are held for no more prefill than the limit says, and no longer once they are on their way."""
    bench = create_scheduler(max_batch_tokens=64, max_prompt_tokens=16, max_burst_tokens=60)
    first = bench.add("a")
    bench.step()
    bench.add("b" * 200)
    assert [batch.num_tokens for batch in (bench.step(), bench.step())] == [64, 1 + 16]
    assert first.num_completion_tokens == 2
    assert bench.step().num_tokens == 1 + 16


def test_one_step_serves_several_prompts() -> None:
    """What the first prompt leaves of a step goes to the next ones."""
    bench = create_scheduler(max_batch_tokens=64)
    first, second, third = (bench.add(letter * 30) for letter in "abc")
    assert shares(bench.step()) == [(first, 30), (second, 30), (third, 4)]
    assert shares(bench.step()) == [(first, 1), (second, 1), (third, 16)]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """The sequence with the least to compute is served first, from the half of the step that is not the oldest's."""
    bench = create_scheduler(max_batch_tokens=64)
    long = bench.add("l" * 500)
    bench.step()
    short = bench.add("short")
    assert shares(bench.step()) == [(long, 59), (short, 5)]
    assert shares(bench.step()) == [(short, 1), (long, 16)]


def test_a_long_prompt_does_not_starve() -> None:
    """However many short prompts arrive, half of each step is the oldest's."""
    bench = create_scheduler(num_slots=8, max_batch_tokens=64)
    long = bench.add("l" * 500)
    for letter in "abcdef":
        bench.add(letter * 60)
    assert dict(shares(bench.step()))[long] == 32


def test_a_preempted_sequence_finds_again_what_was_not_evicted() -> None:
    """A preemption costs the cells that others took, not all of them."""
    bench = create_scheduler()
    bench.add("aaaa")
    young = bench.add("b" * 20)
    bench.step()
    bench.scheduler._preempt(young)
    assert shares(bench.step())[1] == (young, 1)


def test_places_are_given_in_order_of_arrival() -> None:
    """The next slot goes to the sequence that has waited longest."""
    bench = create_scheduler(num_slots=2)
    first, second, third, fourth = (bench.add(letter, max_tokens=2) for letter in "abcd")
    bench.step()
    assert bench.scheduler.running == [first, second]
    bench.steps(2)
    assert bench.scheduler.running == [third, fourth]


def test_none_overtakes_for_lack_of_room() -> None:
    """A small prompt does not pass a large one that waits for room, or the large one might wait for ever."""
    bench = create_scheduler(num_cells=200, max_batch_tokens=200)
    bench.add("a" * 100, max_tokens=4)
    large, small = bench.add("b" * 100), bench.add("c")
    bench.step()
    assert list(bench.scheduler.waiting) == [large, small]
    bench.finish()
    assert_answered(bench, large)
    assert_answered(bench, small)


def test_admission_leaves_a_margin() -> None:
    """A prompt is let in when it fits beside the others and some tokens that they will still generate."""
    for num_tokens, is_admitted in ((1000 - 100 - 1 - MARGIN, True), (1000 - 100 - MARGIN, False)):
        bench = create_scheduler(num_cells=1000, max_batch_tokens=1000)
        bench.add("a" * 100)
        bench.step()
        bench.add("b" * num_tokens)
        bench.step()
        assert (len(bench.scheduler.running) == 2) is is_admitted


def test_shared_prefix_needs_no_room() -> None:
    """A prompt that begins like a running one is let in for the rest of it."""
    bench = create_scheduler(num_cells=300)
    bench.add(SHARED * 6, max_tokens=20)
    bench.steps(4)
    sharing = bench.add(SHARED * 6 + "x")
    bench.step()
    assert sharing.num_cached_tokens == 192


def test_largest_prompt_is_admitted_alone() -> None:
    """A prompt of the whole context but one token runs when it is alone, and ends by its own length."""
    bench = create_scheduler(num_cells=100)
    sequence = bench.add("a" * 99, max_tokens=None)
    bench.finish()
    assert_answered(bench, sequence, 1)


def test_identical_prompts_compute_their_prefix_once() -> None:
    """Of 32 equal prompts one is computed; the others wait for it, then compute their last token."""
    bench = create_scheduler(num_slots=32, max_batch_tokens=64, max_prompt_tokens=64)
    prompt = SHARED * 4
    sequences = [bench.add(prompt, max_tokens=4) for _ in range(32)]
    batches = bench.finish()
    num_prompt_tokens = sum(n for batch in batches for sequence, n in shares(batch)) - 32 * 3
    assert num_prompt_tokens == len(prompt) + 31
    assert [sequence.num_cached_tokens for sequence in sequences] == [0] + [len(prompt) - 1] * 31
    for sequence in sequences:
        assert_answered(bench, sequence, 4)


def test_a_sequence_that_waits_for_a_prefix_is_passed() -> None:
    """While one sequence waits for a prefix that is being computed, another one may go first."""
    bench = create_scheduler(max_batch_tokens=200)
    first, second, other = bench.add(SHARED * 3), bench.add(SHARED * 3), bench.add("other")
    bench.step()
    assert bench.scheduler.running == [first, other]
    bench.finish()
    assert second.num_cached_tokens == len(SHARED) * 3 - 1


def test_short_common_beginnings_are_not_waited_for() -> None:
    """What two prompts share must be worth a step's wait."""
    bench = create_scheduler()
    bench.add(SHARED[1:] + "a")
    bench.add(SHARED[1:] + "b")
    bench.step()
    assert len(bench.scheduler.running) == 2


def test_recurrent_sequences_do_not_wait_for_prefixes() -> None:
    """Where nothing can be shared there is nothing to wait for."""
    bench = create_scheduler(kind="recurrent", max_batch_tokens=500)
    bench.add(SHARED * 2)
    bench.add(SHARED * 2)
    bench.step()
    assert len(bench.scheduler.running) == 2


def test_next_turn_reuses_the_conversation() -> None:
    """Prompt and answer of a turn are the cached beginning of the next."""
    bench = create_scheduler()
    bench.add("hello", max_tokens=5)
    bench.finish()
    turn = bench.add("hello" + bench.runner.answer("hello", 5) + " and then")
    bench.finish()
    assert turn.num_cached_tokens == 5 + 4  # the last token was sampled, not computed
    assert_answered(bench, turn)


def test_full_cache_preempts_the_youngest() -> None:
    """Sequences that outgrow the cache are all answered: the youngest waits, then continues with its tokens."""
    bench = create_scheduler(num_slots=2, num_cells=150, max_batch_tokens=150)
    old, young = bench.add("a" * 50, max_tokens=60), bench.add("b" * 40, max_tokens=60)
    bench.steps(20)
    before = bench.text(young)
    while not bench.scheduler.num_preemptions:
        bench.step()
    assert bench.scheduler.running == [old]
    assert list(bench.scheduler.waiting) == [young]
    bench.finish()
    assert bench.text(young).startswith(before)
    for sequence in (old, young):
        assert_answered(bench, sequence, 60)
    assert (old.num_preemptions, young.num_preemptions) == (0, 1)


def test_usage_does_not_show_a_preemption() -> None:
    """Tokens computed twice are neither prompt nor cached tokens."""
    bench = create_scheduler(num_slots=2, num_cells=150, max_batch_tokens=150)
    sequences = [bench.add("a" * 50, max_tokens=60), bench.add("b" * 40, max_tokens=60)]
    bench.finish()
    assert bench.scheduler.num_preemptions > 0
    usages = [bench.outputs[sequence][-1].usage for sequence in sequences]
    assert usages == [SequenceUsage(50, 0, 60), SequenceUsage(40, 0, 60)]


def test_oldest_are_served_when_room_is_short() -> None:
    """A sequence that is preempted in the middle of scheduling is not computed in that step."""
    bench = create_scheduler(num_slots=3, num_cells=8)
    old, middle, young = (bench.run_at_once(letter * 2) for letter in "abc")
    assert shares(bench.step()) == [(old, 2), (middle, 2), (young, 2)]
    assert shares(bench.step()) == [(old, 1), (middle, 1)]
    assert list(bench.scheduler.waiting) == [young]


def test_preempted_sequence_leaves_the_batch() -> None:
    """A sequence that is preempted when its token is in the batch already is taken out of it."""
    bench = create_scheduler(num_slots=2, num_cells=8)
    young = bench.run_at_once("bb")
    bench.step()
    old = bench.run_at_once("aaaaaa")
    bench.scheduler.running.reverse()
    assert shares(bench.step()) == [(old, 6)]
    assert list(bench.scheduler.waiting) == [young]


def test_sequence_that_is_itself_the_youngest_gives_way() -> None:
    """When the youngest finds no room for its own token, it is the one to wait."""
    bench = create_scheduler(num_slots=2, num_cells=5)
    old, young = (bench.run_at_once(letter * 2, max_tokens=2) for letter in "ab")
    bench.step()
    assert shares(bench.step()) == [(old, 1)]
    bench.finish()
    assert_answered(bench, young, 2)


def test_usage_shows_what_the_first_admission_reused() -> None:
    """What a sequence finds, or no longer finds, when it comes back does not change its count of cached tokens."""
    bench = create_scheduler(num_slots=3)
    bench.add(SHARED * 2)
    bench.finish()
    sequence, failed = bench.add(SHARED * 2 + "and"), bench.add("bad")
    bench.step()
    bench.scheduler.fail([failed], EngineError("broken"))
    bench.finish()
    assert bench.outputs[sequence][-1].usage == SequenceUsage(67, 64, 8)
    assert sequence.num_preemptions == 1


def test_preempted_sequences_keep_their_order() -> None:
    """They wait before those that never ran, the oldest first."""
    bench = create_scheduler(num_slots=3)
    first, second, third = (bench.add(letter) for letter in "abc")
    bench.step()
    waiting = bench.add("d")
    bench.scheduler.fail([first], EngineError("broken"))
    assert list(bench.scheduler.waiting) == [second, third, waiting]


def test_abort_of_a_waiting_sequence() -> None:
    """It is gone, and nothing was computed."""
    bench = create_scheduler(num_slots=1)
    running, waiting = bench.add("a"), bench.add("b")
    bench.step()
    bench.scheduler.abort(waiting)
    bench.check()
    assert (bench.scheduler.running, list(bench.scheduler.waiting)) == ([running], [])
    assert waiting.is_finished


def test_abort_of_a_running_sequence_keeps_its_tokens_cached() -> None:
    """Its place is free at once, and what it computed stays for others."""
    bench = create_scheduler(num_slots=1)
    running, waiting = bench.add("hello", max_tokens=None), bench.add("hello you")
    bench.step()
    bench.scheduler.abort(running)
    bench.check()
    bench.finish()
    assert waiting.num_cached_tokens == 5
    assert_answered(bench, waiting)


def test_abort_after_the_end_does_nothing() -> None:
    """A cancel may come too late."""
    bench = create_scheduler()
    sequence = bench.add("a", max_tokens=1)
    bench.finish()
    bench.scheduler.abort(sequence)
    bench.check()


def test_fail_forgets_everything_and_keeps_the_others() -> None:
    """The failed end with the error; the others compute again from nothing, and lose nothing."""
    bench = create_scheduler(num_slots=3)
    failed, other = bench.add("bad", max_tokens=None), bench.add("good", max_tokens=8)
    bench.steps(3)
    error = EngineError("broken")
    bench.note(bench.scheduler.fail([failed], error))
    bench.check()
    assert bench.outputs[failed][-1].error is error
    assert bench.runner.memory.num_used_cells == 0
    assert list(bench.scheduler.waiting) == [other]
    bench.finish()
    assert_answered(bench, other)


def test_pressure_takes_cached_slots_first() -> None:
    """When llama.cpp has less room than was counted, cached slots are evicted first."""
    bench = create_scheduler()
    bench.add("aaaa", max_tokens=1)
    bench.finish()
    running = bench.add("bbbb")
    bench.step()
    assert bench.scheduler.relieve_pressure() == []
    bench.check()
    assert bench.scheduler.running == [running]
    assert bench.runner.memory.num_used_cells == 4


def test_pressure_then_preempts_the_youngest() -> None:
    """With nothing cached, the youngest is preempted."""
    bench = create_scheduler()
    old, young = bench.add("aaaa"), bench.add("bbbb")
    bench.step()
    assert bench.scheduler.relieve_pressure() == []
    bench.check()
    assert (bench.scheduler.running, list(bench.scheduler.waiting)) == ([old], [young])


def test_pressure_admits_nobody() -> None:
    """A preempted sequence is not admitted to the next batch, but to the one after it."""
    bench = create_scheduler()
    old, young = bench.add("aaaa"), bench.add("bbbb")
    bench.step()
    bench.scheduler.relieve_pressure()
    assert shares(bench.step()) == [(old, 1)]
    assert shares(bench.step()) == [(old, 1), (young, 5)]


def test_pressure_at_last_fails_a_sequence_that_is_alone() -> None:
    """A sequence that does not fit though it runs alone gets an error; those that wait do not."""
    bench = create_scheduler(num_slots=1)
    alone, waiting = bench.add("aaaa"), bench.add("bbbb")
    bench.step()
    bench.note(bench.scheduler.relieve_pressure())
    bench.check()
    error = bench.outputs[alone][-1].error
    assert error is not None
    assert error.code == "out_of_memory"
    bench.finish()
    assert_answered(bench, waiting)


def test_seeded_sequences_reuse_nothing() -> None:
    """A sequence that shall repeat exactly computes all of its prompt, and alone it starts from an empty cache."""
    bench = create_scheduler()
    for _ in range(2):
        sequence = bench.add("hello" * 10, seed=1)
        bench.finish()
        assert sequence.num_cached_tokens == 0
    assert bench.runner.memory.num_used_cells == 50 + 7


def test_seeded_sequences_leave_their_neighbours_cache() -> None:
    """Beside others a seeded sequence computes everything too, but forgets nothing of theirs."""
    bench = create_scheduler()
    other = bench.add("hello" * 10)
    bench.step()
    seeded = bench.add("hello" * 10, seed=1)
    bench.finish()
    assert seeded.num_cached_tokens == 0
    assert_answered(bench, other)
    assert_answered(bench, seeded)


@pytest.mark.parametrize("seed", seeds())
def test_random_traffic(seed: int) -> None:
    """In a cache far too small for all, every sequence gets the right text, whatever others come, leave or fail."""
    rng, kind = random.Random(seed), KINDS[seed % len(KINDS)]
    bench = create_scheduler(
        kind=kind,
        num_slots=5,
        num_cells=rng.choice([160, 300]),
        max_batch_tokens=rng.choice([8, 40]),
        max_prompt_tokens=rng.choice([5, 40]),
    )
    scheduler = bench.scheduler
    sequences: list[Sequence] = []
    aborted: set[Sequence] = set()
    for _ in range(400):
        if len(scheduler.waiting) < 6 and rng.random() < 0.3:
            prompt = rng.choice(["", SHARED, SHARED * 2]) + "".join(rng.choices("ab", k=rng.randint(1, 40)))
            seeded = rng.random() < 0.1
            sequences.append(bench.add(prompt, max_tokens=rng.randint(1, 60), seed=1 if seeded else None))
        open_sequences = [*scheduler.waiting, *scheduler.running]
        if open_sequences and rng.random() < 0.05:
            aborted.add(leaving := rng.choice(open_sequences))
            scheduler.abort(leaving)
            bench.check()
        if scheduler.running and rng.random() < 0.02:
            failing = rng.choice(scheduler.running)
            aborted.add(failing)
            scheduler.fail([failing], EngineError("broken"))
            bench.check()
        if scheduler.has_work:
            bench.step()
    bench.finish()
    for sequence in set(sequences) - aborted:
        assert_answered(bench, sequence, sequence.num_completion_tokens)
    assert scheduler.num_preemptions > 0
    assert not any(slot.is_claimed for slot in scheduler.cache.slots)


def test_finished_conversations_are_forgotten_while_others_generate() -> None:
    """After as many tokens of others as the limit says, though there is room; until then they are found again."""
    bench = create_scheduler(max_idle=20)
    bench.add("a conversation", max_tokens=4)
    bench.finish()
    busy = bench.add("other", max_tokens=100)
    bench.steps(15)
    again = bench.add("a conversation", max_tokens=1)
    bench.step()
    assert again.num_cached_tokens == len("a conversation") - 1
    bench.steps(25)
    late = bench.add("a conversation", max_tokens=1)
    bench.step()
    assert late.num_cached_tokens == 0
    bench.finish()
    assert_answered(bench, busy, 100)
