"""Scored prompts: which rows a step computes, and that no position without a score comes from the cache."""

import random
from dataclasses import replace

from handler.engine.engine import Engine
from handler.engine.prompt_scores import MAX_SCORED_TOKENS, PromptScores
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import FinishReason, Sequence, SequenceOutput
from tests.engine.fakes import FakeRunner, FakeSampler, create_engine, score
from tests.engine.test_scheduler import Bench, create_scheduler

SCORED = SamplingParams(max_tokens=3, num_prompt_logprobs=0)


def add(bench: Bench, prompt: str, params: SamplingParams = SCORED) -> Sequence:
    sequence = Sequence(
        list(prompt.encode()),
        params,
        vocabulary=bench.runner.vocabulary,
        max_num_tokens=bench.runner.max_model_len,
        sampler=FakeSampler(prompt, []),
    )
    bench.scheduler.add(sequence)
    return sequence


def assert_scored(bench: Bench, sequence: Sequence) -> None:
    """Its first output, and no other, has its prompt, each token with the score that a fresh cache gives."""
    first, *rest = bench.outputs[sequence]
    assert_scores(first, sequence.token_ids[: sequence.num_prompt_tokens])
    assert all(output.prompt is None for output in rest)


def assert_scores(output: SequenceOutput, token_ids: list[int]) -> None:
    assert output.prompt is not None
    assert output.prompt.token_id == token_ids[0]
    assert list(output.prompt.others) == [score(token_ids[:end], token_ids[end]) for end in range(1, len(token_ids))]


def test_positions() -> None:
    """A prompt of five tokens has four scores, the last position being for the answer."""
    scores = PromptScores(5)
    assert list(scores.wanted(0, 3)) == [0, 1, 2]
    assert list(scores.wanted(3, 2)) == [3]
    assert [scores.limited(0, 5, rows) for rows in (0, 3, 4)] == [0, 3, 5]
    scores.add(3 * [score([1], 2)])
    assert list(scores.wanted(0, 5)) == [3]
    assert [scores.limited(0, 5, rows) for rows in (0, 1)] == [3, 5]
    assert scores.take(1, b"a") is None
    scores.add([score([1], 2)])
    assert not scores.wanted(0, 5)
    assert scores.take(1, b"a") is not None
    assert scores.take(1, b"a") is None


def test_a_prompt_of_one_token() -> None:
    """Nothing precedes it, so nothing is to be scored."""
    bench = create_scheduler()
    sequence = add(bench, "a")
    bench.finish()
    assert_scored(bench, sequence)


def test_a_step_scores_a_bounded_number_of_tokens() -> None:
    """The fake model has no room for more rows; a prompt that is not scored takes what is left."""
    bench = create_scheduler(max_batch_tokens=4 * MAX_SCORED_TOKENS)
    sequence = add(bench, "s" * 150)
    other = bench.add("t" * 100, max_tokens=1)
    assert {item.sequence: item.num_tokens for item in bench.step().items} == {sequence: 64, other: 100}
    bench.finish()
    assert_scored(bench, sequence)


def test_two_scored_prompts_share_the_rows() -> None:
    """Both at once have no more of them than one alone."""
    bench = create_scheduler(max_batch_tokens=256)
    sequences = [add(bench, "first " * 20), add(bench, "second " * 20)]
    bench.finish()
    for sequence in sequences:
        assert_scored(bench, sequence)


def test_what_is_cached_is_computed_again_for_its_scores() -> None:
    """And is then there for others."""
    bench = create_scheduler()
    prompt = "system prompt, " * 4
    bench.add(prompt, max_tokens=1)
    bench.finish()
    sequence = add(bench, prompt)
    bench.finish()
    assert_scored(bench, sequence)
    assert sequence.num_cached_tokens == 0
    other = bench.add(prompt, max_tokens=1)
    bench.finish()
    assert other.num_cached_tokens == len(prompt) - 1


def test_a_preempted_one_keeps_its_scores() -> None:
    """It reuses what it has scored, and scores the rest."""
    bench = create_scheduler(num_cells=200, max_batch_tokens=64)
    sequence = add(bench, "s" * 150)
    bench.step()
    assert sequence.prompt_scores is not None
    assert sequence.prompt_scores.num_known == MAX_SCORED_TOKENS
    bench.scheduler._preempt(sequence)
    steps = bench.finish()
    assert steps[0].items[0].start == MAX_SCORED_TOKENS
    assert_scored(bench, sequence)


def test_random_traffic_in_a_cache_that_is_too_small() -> None:
    """Whatever is preempted, shared and evicted: scores and texts are those of a fresh cache."""
    for seed in range(20):
        draw = random.Random(seed)
        bench = create_scheduler(num_cells=250, max_batch_tokens=draw.choice((8, 64, 100)), max_burst_tokens=60)
        scored = []
        for _ in range(12):
            prompt = draw.choice("ab") * draw.randint(1, 90) + draw.choice("cd") * draw.randint(1, 20)
            bench.add(prompt, max_tokens=draw.randint(1, 9))
            scored.append(add(bench, prompt, replace(SCORED, max_tokens=draw.randint(0, 9))))
            bench.steps(draw.randint(0, 3) if bench.scheduler.has_work else 0)
        bench.finish()
        for sequence in scored:
            assert_scored(bench, sequence)
            prompt = bytes(sequence.token_ids[: sequence.num_prompt_tokens]).decode()
            assert bench.text(sequence) == bench.runner.answer(prompt, sequence.params.max_tokens or 0)


def test_no_token_at_all() -> None:
    """With a limit of 0 the prompt is computed, and stays cached; nothing is written."""
    bench = create_scheduler()
    sequence = add(bench, "hello, " * 10, replace(SCORED, max_tokens=0))
    bench.finish()
    assert_scored(bench, sequence)
    [output] = bench.outputs[sequence]
    assert (output.text, output.finish_reason) == ("", FinishReason.LENGTH)
    assert sequence.usage == (70, 0, 0, 0)
    other = bench.add("hello, " * 10 + "world", max_tokens=1)
    bench.finish()
    assert other.num_cached_tokens == 70


async def test_the_first_of_several_choices_is_scored() -> None:
    """The others begin with what it has computed: each token of the prompt is computed once."""
    runner = FakeRunner(num_cells=4000)
    engine: Engine = create_engine(runner, Limits(4, 256, 16))
    try:
        outputs = await (await engine.generate(["hello, " * 20], SCORED, n=4)).result()
        assert_scores(outputs[0], runner.tokenize("hello, " * 20))
        assert [output.prompt for output in outputs[1:]] == [None, None, None]
        assert [output.usage.num_cached_tokens for output in outputs if output.usage] == [0, 139, 139, 139]
    finally:
        engine.close()
