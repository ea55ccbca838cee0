"""Every parameter of sampling does what it says, on a model with real logits."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.slot import Slot
from handler.engine.engine import Engine
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.sampler_chain import token_logprob
from handler.engine.logprobs import TokenLogprob
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason, Sequence
from handler.errors import InvalidRequestError
from tests.engine.asking import GREEDY, Answer, ask
from tests.engine.fakes import ByteVocabulary
from tests.engine.llama.tiny_engine import open_engine, run
from tests.tiny_models import EOS, Architecture

PROMPT = "hello world"
WILD = SamplingParams(
    temperature=1.5, top_k=0, top_p=1, min_p=0, max_tokens=24, num_logprobs=0
)  # draws from everything


@pytest.fixture(scope="module")
def engine(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[Engine]:
    with open_engine(tiny_model_paths["llama"]) as engine:
        yield engine


@pytest.fixture(scope="module")
def runner(engine: Engine) -> ModelRunner:
    assert isinstance(engine.runner, ModelRunner)
    return engine.runner


async def draw(engine: Engine, params: SamplingParams, prompt: str = PROMPT) -> Answer:
    return await ask(engine, prompt, params)


async def first_tokens(engine: Engine, params: SamplingParams, num_draws: int = 60) -> set[int]:
    """The different first tokens of many draws."""
    generation = await engine.generate(
        [PROMPT], replace(params, max_tokens=1, num_logprobs=0, ignore_eos=True), num_draws
    )
    drawn = set()
    async for outputs in generation:
        drawn |= {entry.token_id for output in outputs.values() for entry in output.logprobs}
    return drawn


def test_logprobs_are_the_log_softmax_of_the_logits(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """The numbers shown are llama.cpp's own logits, normalised, whatever the sampling parameters."""
    with open_engine(tiny_model_paths["llama"]) as engine:
        runner = engine.runner
        assert isinstance(runner, ModelRunner)
        vocabulary = runner.vocabulary
        params = replace(WILD, num_logprobs=vocabulary.num_tokens, logit_bias=((70, -100.0),), repeat_penalty=1.5)
        prompt = runner.tokenize(PROMPT)
        sequence = Sequence(
            prompt, params, vocabulary=vocabulary, max_num_tokens=100, sampler=runner.make_sampler(params, prompt)
        )
        sequence.slot = Slot(0)
        [[sampled]] = run(runner, Batch([ScheduledSequence(sequence, 0, len(prompt))]))
        sequence.close()
        pointer = llama.llama_get_logits_ith(runner._context, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(vocabulary.num_tokens,)).astype(np.float64)
        runner.memory.clear(0)
    expected = logits - np.log(np.exp(logits).sum())
    assert sampled.logprob is not None
    shown = np.array([entry.logprob for entry in sorted(sampled.logprob.top)])
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    assert sampled.logprob.logprob == pytest.approx(expected[sampled.token_id], abs=1e-5)


def test_token_logprob_of_huge_logits() -> None:
    """Large logits neither overflow nor lose their order."""
    logits = np.array([1000, 999, -1000, 998], np.float32)
    entry = token_logprob(logits, 1, 3, ByteVocabulary())
    assert [top.token_id for top in entry.top] == [0, 1, 3]
    assert entry.logprob == pytest.approx(-1 - math.log(1 + math.exp(-1) + math.exp(-2)), abs=1e-4)
    assert entry.piece == b"\x01"


def test_no_top_logprobs() -> None:
    """Zero of the likeliest tokens is a number too: the drawn token's alone."""
    assert token_logprob(np.zeros(4, np.float32), 2, 0, ByteVocabulary()) == TokenLogprob(2, b"\x02", -math.log(4))


async def test_greedy_takes_the_likeliest(engine: Engine) -> None:
    """At temperature 0 every token is the first of the likeliest, which come in order."""
    answer = await draw(engine, replace(GREEDY, num_logprobs=5))
    for step in answer.logprobs:
        assert step.token_id == step.top[0].token_id
        assert step.logprob == step.top[0].logprob
        assert [top.logprob for top in step.top] == sorted((top.logprob for top in step.top), reverse=True)


async def test_logprobs_only_when_asked_for(engine: Engine) -> None:
    """Without being asked nothing is computed."""
    assert (await draw(engine, replace(GREEDY, num_logprobs=None))).logprobs == ()


async def test_bias_bans(engine: Engine) -> None:
    """A token with a bias of -100 never comes."""
    first = (await draw(engine, GREEDY)).token_ids[0]
    biased = await draw(engine, replace(GREEDY, logit_bias=((first, -100.0),)))
    assert first not in biased.token_ids


async def test_bias_forces(engine: Engine) -> None:
    """A token with a bias of 100 always comes, at any temperature."""
    biased = await draw(engine, replace(WILD, logit_bias=((70, 100.0),)))
    assert biased.token_ids == [70] * 24


async def test_bias_of_an_unknown_token_is_refused(engine: Engine) -> None:
    """A token that is not in the vocabulary is the caller's mistake."""
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        await draw(engine, replace(GREEDY, logit_bias=((100_000, 1.0),)))


async def test_ignore_eos(engine: Engine) -> None:
    """No token that ends an answer comes, even if it would have."""
    ending = replace(GREEDY, logit_bias=((EOS, 100.0),))
    assert (await draw(engine, ending)).finish_reason is FinishReason.STOP
    going_on = await draw(engine, replace(ending, ignore_eos=True))
    assert going_on.finish_reason is FinishReason.LENGTH
    assert EOS not in going_on.token_ids


@pytest.mark.parametrize(("frequency", "presence"), [(100.0, 0.0), (0.0, 100.0)], ids=["frequency", "presence"])
async def test_openai_penalties_count_the_answer_alone(engine: Engine, frequency: float, presence: float) -> None:
    """A token of the prompt is as likely as ever; once generated it is not."""
    [favourite] = (await draw(engine, replace(GREEDY, max_tokens=1))).token_ids
    piece = engine.runner.vocabulary.piece(favourite).decode("latin-1")
    params = replace(GREEDY, max_tokens=4, logit_bias=((favourite, 30.0),))
    assert (await draw(engine, params)).token_ids == [favourite] * 4
    penalties = replace(params, frequency_penalty=frequency, presence_penalty=presence)
    penalised = await draw(engine, penalties, PROMPT + piece)
    assert penalised.token_ids[0] == favourite
    assert favourite not in penalised.token_ids[1:]


async def test_frequency_penalty_grows_and_presence_penalty_does_not(engine: Engine) -> None:
    """Frequency counts how often a token came, presence only whether."""
    params = replace(GREEDY, max_tokens=20, logit_bias=((70, 40.0),))
    assert (await draw(engine, replace(params, presence_penalty=2.0))).token_ids == [70] * 20
    assert (await draw(engine, replace(params, frequency_penalty=2.0))).token_ids != [70] * 20


async def test_repeat_penalty_counts_the_prompt_too(engine: Engine) -> None:
    """A token of the prompt is less likely, if it is not further back than repeat_last_n."""
    token_ids = engine.runner.tokenize(PROMPT)
    [favourite] = (await draw(engine, replace(GREEDY, max_tokens=1))).token_ids
    prompt = [token_ids[0], favourite, *token_ids[1:]]
    params = replace(GREEDY, max_tokens=1, logit_bias=((favourite, 50.0),), repeat_penalty=1e6)
    near = await ask(engine, prompt, replace(params, repeat_last_n=-1))
    far = await ask(engine, prompt, replace(params, repeat_last_n=2))
    assert near.token_ids != [favourite]
    assert far.token_ids == [favourite]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32 - 1, 2**63, -(2**63)])
async def test_equal_seeds_equal_text(engine: Engine, seed: int) -> None:
    """A seed, however large or small, gives the same text again, whatever happened in between."""
    first = await draw(engine, replace(WILD, seed=seed))
    await draw(engine, WILD)
    again = await draw(engine, replace(WILD, seed=seed))
    assert first.token_ids == again.token_ids


async def test_different_seeds_different_text(engine: Engine) -> None:
    """So do the choices of one request, and requests without a seed."""
    seeded = [await draw(engine, replace(WILD, seed=seed)) for seed in range(5)]
    unseeded = await asyncio.gather(*(draw(engine, WILD) for _ in range(5)))
    assert len({answer.text for answer in [*seeded, *unseeded]}) == 10


@pytest.mark.parametrize(
    "params",
    [
        replace(WILD, top_k=1),
        replace(WILD, top_p=1e-6),
        replace(WILD, min_p=1.0),
        replace(WILD, typical_p=1e-6),
        replace(WILD, temperature=1e-3),
    ],
    ids=["top_k", "top_p", "min_p", "typical_p", "temperature"],
)
async def test_candidates_are_narrowed(engine: Engine, params: SamplingParams) -> None:
    """At its strictest each of them leaves one token."""
    assert len(await first_tokens(engine, params)) == 1
    assert len(await first_tokens(engine, WILD)) > 1


async def test_top_k_keeps_k(engine: Engine) -> None:
    """Draws come from the k likeliest."""
    [step] = (await draw(engine, replace(GREEDY, max_tokens=1, num_logprobs=3))).logprobs
    drawn = await first_tokens(engine, replace(WILD, top_k=3, temperature=5.0))
    assert drawn == {top.token_id for top in step.top}


async def test_xtc_excludes_the_top_choices(engine: Engine) -> None:
    """With certainty, the likeliest of several tokens above the threshold never comes."""
    [favourite] = (await draw(engine, replace(GREEDY, max_tokens=1))).token_ids
    params = replace(WILD, temperature=1.0, top_k=5)
    assert favourite in await first_tokens(engine, params)
    assert favourite not in await first_tokens(engine, replace(params, xtc_probability=1.0, xtc_threshold=0.001))


async def test_dry_breaks_repetition(engine: Engine) -> None:
    """A phrase of the prompt that begins again is not continued."""
    phrase = [70, 71, 72, 73, 74, 75]
    prompt = [*phrase, 90, *phrase[:-1]]
    params = replace(GREEDY, max_tokens=1, logit_bias=((phrase[-1], 50.0),))
    assert (await ask(engine, prompt, params)).token_ids == [phrase[-1]]
    dry = await ask(engine, prompt, replace(params, dry_multiplier=1000.0, dry_sequence_breakers=()))
    assert dry.token_ids != [phrase[-1]]


async def test_samplers_share_no_state(engine: Engine) -> None:
    """Sequences with different parameters in one batch get each what it gets alone."""
    kinds = [GREEDY, replace(GREEDY, presence_penalty=2.0), replace(GREEDY, repeat_penalty=1.5)]
    alone = [await draw(engine, params) for params in kinds]
    together = await asyncio.gather(*(draw(engine, params) for params in kinds))
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]


def test_close_frees_once(runner: ModelRunner) -> None:
    """A chain may be closed by hand and collected afterwards."""
    sampler = runner.make_sampler(GREEDY, [1, 2, 3])
    sampler.close()
    sampler.close()
    assert not sampler._finalizer.alive


@pytest.mark.parametrize(
    ("params", "function", "place"),
    [
        (SamplingParams(repeat_penalty=1.1, repeat_last_n=2**31 - 1), "llama_sampler_init_penalties", 1),
        (SamplingParams(dry_multiplier=1.0, dry_penalty_last_n=2**31 - 1), "llama_sampler_init_dry", 4),
    ],
    ids=["repeat", "dry"],
)
def test_no_more_is_remembered_than_there_can_be(
    params: SamplingParams, function: str, place: int, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp makes room at once for all that it may look back at: gigabytes, if the setting were passed on."""
    asked: list[int] = []
    make = getattr(llama, function)

    def note_and_make(*args: Any) -> Any:
        asked.append(args[place])
        return make(*args)

    monkeypatch.setattr(llama, function, note_and_make)
    runner.make_sampler(params, [1, 2, 3]).close()
    assert asked == [runner.max_model_len]
