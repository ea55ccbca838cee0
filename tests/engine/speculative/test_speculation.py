"""Which sequences get drafts, how long they are, and what comes of them.

The model is one without arithmetic: each token is a function of the tokens that the slot really holds, so a right text
proves that nothing wrong was left there.
"""

import random
from dataclasses import dataclass, field

import pytest

from handler.engine.batch import Batch
from handler.engine.cache.unified_cache import UnifiedCache
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import FinishReason, Sequence, SequenceOutput
from handler.engine.speculative.speculation import DraftLimits, Speculation
from tests.engine.fake_drafters import FakeDrafter, MixedDrafter, RandomDrafter, RightDrafter, WrongDrafter
from tests.engine.fakes import END, FakeRunner, MemoryKind

NOISE = {"one": 120, "two": 120, "three": 120, "four": 120}


@dataclass
class Bench:
    """Scheduler, fake model and drafts, as the engine puts them together."""

    scheduler: Scheduler
    runner: FakeRunner
    speculation: Speculation
    texts: dict[Sequence, str] = field(default_factory=dict)
    last: dict[Sequence, SequenceOutput] = field(default_factory=dict)

    def add(self, prompt: str, *, max_tokens: int | None = 40, stop: tuple[str, ...] = ()) -> Sequence:
        sequence = Sequence(
            list(prompt.encode()),
            SamplingParams(max_tokens=max_tokens, stop=stop),
            vocabulary=self.runner.vocabulary,
            max_num_tokens=self.runner.max_model_len,
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Batch:
        cache = self.scheduler.cache
        batch = self.scheduler.schedule()
        self.speculation.add_drafts(batch, cache)
        drawn = self.runner.run(batch)
        self.speculation.learn(batch, drawn)
        for sequence, given in self.scheduler.postprocess(batch, drawn):
            output = given or sequence.write()
            self.texts[sequence] = self.texts.get(sequence, "") + output.text
            self.last[sequence] = output
            if sequence.is_finished:
                self.speculation.forget(sequence)
        cache.check_integrity()
        assert cache.num_cells - cache.num_free_cells == self.runner.memory.num_used_cells
        return batch

    def steps(self, number: int) -> list[Batch]:
        return [self.step() for _ in range(number)]

    def finish(self) -> list[Batch]:
        batches = []
        while self.scheduler.has_work:
            batches.append(self.step())
        return batches


def create_bench(
    drafter: FakeDrafter | None = None,
    scripts: dict[str, str] | None = None,
    *,
    kind: MemoryKind = "full",
    num_cells: int = 1000,
    limits: DraftLimits | None = None,
) -> Bench:
    runner = FakeRunner(scripts, kind=kind, num_slots=4, num_cells=num_cells)
    cache = UnifiedCache(runner.memory, num_slots=4, num_cells=num_cells)
    speculation = Speculation(drafter or right_drafter(runner), limits or DraftLimits(4, 8, 64))
    return Bench(Scheduler(cache, Limits(4, 64, 16)), runner, speculation)


def answers(runner: FakeRunner, num_tokens: int = 400) -> dict[tuple[int, ...], list[int]]:
    """What the fake model says to the prompts of this file."""
    known = {}
    for prompt in [*NOISE, "script"]:
        token_ids = runner.tokenize(prompt)
        for _ in range(num_tokens):
            token_ids.append(runner.next_token(token_ids))
        known[tuple(prompt.encode())] = token_ids[len(prompt) :]
    return known


def right_drafter(runner: FakeRunner) -> RightDrafter:
    return RightDrafter(answers(runner, 130))


def drafted(batch: Batch) -> list[int]:
    return [len(item.draft_token_ids) for item in batch.items]


def test_right_drafts_make_fewer_steps() -> None:
    """Of the same text; drafts grow as they prove right."""
    bench = create_bench()
    sequence = bench.add("one", max_tokens=40)
    batches = bench.finish()
    assert bench.texts[sequence] == bench.runner.answer("one", 40)
    assert [drafted(batch) for batch in batches] == [[0], [2], [4], [8], [8], [8], [3]]
    assert (bench.speculation.num_drafted_tokens, bench.speculation.num_accepted_tokens) == (33, 33)


def test_prompts_get_no_drafts() -> None:
    """Only generating sequences do, also beside prompts."""
    bench = create_bench()
    first = bench.add("one", max_tokens=100)
    bench.step()
    second = bench.add("two" * 12)
    assert [(item.sequence, len(item.draft_token_ids)) for item in bench.step().items] == [(first, 2), (second, 0)]


@pytest.mark.parametrize("drafter", [WrongDrafter, MixedDrafter, RandomDrafter, FakeDrafter])
@pytest.mark.parametrize("kind", ["full", "recurrent", "stubborn"])
def test_no_draft_changes_a_text(drafter: type[FakeDrafter], kind: MemoryKind) -> None:
    """Four together in a cache too small for them, whatever is drafted, in any memory: where it cannot go back,
    everything is computed anew."""
    runner = FakeRunner()
    made = drafter(answers(runner)) if issubclass(drafter, RightDrafter) else drafter()
    bench = create_bench(made, kind=kind, num_cells=200)
    sequences = [bench.add(prompt, max_tokens=num_tokens) for prompt, num_tokens in NOISE.items()]
    bench.finish()
    for sequence, (prompt, num_tokens) in zip(sequences, NOISE.items(), strict=True):
        assert bench.texts[sequence] == bench.runner.answer(prompt, num_tokens)
        assert bench.last[sequence].finish_reason is FinishReason.LENGTH
    assert bench.scheduler.num_preemptions > 0


def test_many_sequences_get_no_drafts() -> None:
    """A step of many has enough to compute."""
    bench = create_bench(limits=DraftLimits(max_num_seqs=2, max_tokens=8, max_batch_tokens=64))
    bench.add("one", max_tokens=100)
    bench.add("two", max_tokens=100)
    bench.add("three", max_tokens=10)
    batches = bench.finish()
    assert not any(sum(drafted(batch)) for batch in batches if len(batch.items) > 2)
    assert bench.speculation.num_drafted_tokens > 100


def test_drafts_take_only_free_cells() -> None:
    """Nothing is evicted for them: the cached answer stays."""
    bench = create_bench(num_cells=60)
    bench.add("one", max_tokens=20)
    bench.finish()
    held = bench.runner.memory.token_ids(0)
    bench.add("two", max_tokens=33)
    while bench.scheduler.has_work and bench.scheduler.cache.num_free_cells > 1:
        bench.step()
        assert bench.runner.memory.token_ids(0) == held
    bench.finish()


def test_drafts_stay_within_the_batch() -> None:
    """All of a step's tokens are computed at once."""
    bench = create_bench(limits=DraftLimits(max_num_seqs=4, max_tokens=8, max_batch_tokens=10))
    for prompt in NOISE:
        bench.add(prompt, max_tokens=60)
    batches = bench.finish()[1:]
    assert max(batch.num_tokens for batch in batches) == 10
    assert all(len(batch.items) <= batch.num_tokens <= 10 for batch in batches)


def test_no_draft_beyond_the_end() -> None:
    """What may not come is not drafted; the last token needs none."""
    bench = create_bench()
    sequence = bench.add("one", max_tokens=4)
    assert [drafted(batch) for batch in bench.finish()] == [[0], [2]]
    assert sequence.usage.num_completion_tokens == 4


def test_max_tokens_within_a_draft() -> None:
    """A drafter that says more than asked for would be cut; the answer ends where it must."""
    for max_tokens in range(1, 12):
        bench = create_bench()
        sequence = bench.add("one", max_tokens=max_tokens)
        bench.finish()
        assert bench.texts[sequence] == bench.runner.answer("one", max_tokens)
        assert sequence.usage.num_completion_tokens == max_tokens


def test_stop_string_within_a_draft() -> None:
    """What comes after it is dropped: from the text, the usage and the cache."""
    script = {"script": " first. STOP and more, and yet more."}
    bench = create_bench(right_drafter(FakeRunner(script)), script)
    sequence = bench.add("script", stop=("STOP",))
    bench.finish()
    assert bench.texts[sequence] == " first. "
    assert bench.last[sequence].finish_reason is FinishReason.STOP
    assert sequence.usage.num_completion_tokens == len(" first. STOP")
    assert bench.runner.memory.token_ids(0) == list(b"script first. STO")


def test_end_within_a_draft() -> None:
    """The token that ends an answer ends it, though more was drafted and would have been drawn."""
    script = {"script": "short"}
    drafter = RightDrafter({tuple(b"script"): [*b"short", END, *b"more and more"]})
    bench = create_bench(drafter, script)
    sequence = bench.add("script")
    bench.finish()
    assert (bench.texts[sequence], bench.last[sequence].finish_reason) == ("short", FinishReason.STOP)
    assert sequence.usage.num_completion_tokens == len("short") + 1


def test_an_answer_in_drafts_is_gone_on_from() -> None:
    """The next turn finds all of it but its last token in the cache."""
    bench = create_bench()
    bench.add("one", max_tokens=20)
    bench.finish()
    turn = bench.add("one" + bench.runner.answer("one", 20) + "?", max_tokens=1)
    bench.step()
    assert turn.num_cached_tokens == len("one") + 19


def test_aborted_between_drafts() -> None:
    """Its slot is as if there had been none, and the others continue."""
    bench = create_bench()
    first, second = bench.add("one", max_tokens=100), bench.add("two", max_tokens=100)
    bench.steps(4)
    bench.scheduler.abort(first)
    bench.speculation.forget(first)
    bench.finish()
    assert bench.texts[second] == bench.runner.answer("two", 100)


def test_a_finished_sequence_is_forgotten() -> None:
    """By the drafter as well."""
    drafter = RandomDrafter(random.randrange(1000))
    bench = create_bench(drafter)
    sequence = bench.add("one", max_tokens=20)
    bench.finish()
    assert drafter.forgotten == [sequence]
    assert not bench.speculation._lengths
    bench.speculation.close()
    assert drafter.is_closed
