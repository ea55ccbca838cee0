"""Drafts on llama.cpp itself: whatever is drafted, no text changes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.speculative.prompt_lookup import PromptLookup
from tests.engine.asking import GREEDY, Answer, ask, ask_all, ask_one_by_one, forget
from tests.engine.fake_drafters import Answers, FakeDrafter, MixedDrafter, RandomDrafter, RightDrafter, WrongDrafter
from tests.engine.llama.random_traffic import check_random_traffic
from tests.engine.llama.test_tiny import MEMORIES, PROMPTS, SHARING, SPLIT, WINDOW, Memory, for_each
from tests.engine.llama.tiny_engine import open_engine
from tests.tiny_models import Architecture

LONG = replace(GREEDY, max_tokens=60)
WILD = SamplingParams(
    temperature=1.3, seed=7, max_tokens=60, num_logprobs=0, frequency_penalty=0.4, repeat_penalty=1.2, ignore_eos=True
)
KINDS: list[type[FakeDrafter]] = [RightDrafter, WrongDrafter, MixedDrafter, RandomDrafter]

OpenEngine = Callable[..., Engine]
LLAMA = Memory("llama")


@pytest.fixture
def open_tiny(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[OpenEngine]:
    """Open engines on tiny models; they are closed after the test, and must have nothing left then."""
    with ExitStack() as stack:

        def open_one(memory: Memory = LLAMA, **config: Any) -> Engine:
            config = {"swa_full": memory.swa_full, "kv_unified": memory.kv_unified, **config}
            return stack.enter_context(open_engine(tiny_model_paths[memory.architecture], **config))

        yield open_one


def make_drafter(kind: type[FakeDrafter], known: Answers) -> FakeDrafter:
    return kind(known) if issubclass(kind, RightDrafter) else kind()


def answers(engine: Engine, prompts: list[str], told: list[Answer]) -> Answers:
    return {tuple(engine.runner.tokenize(p)): answer.token_ids for p, answer in zip(prompts, told, strict=True)}


def assert_same(together: list[Answer], alone: list[Answer]) -> None:
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]


@pytest.mark.parametrize("kind", KINDS)
@for_each(MEMORIES)
async def test_drafts_change_no_text(memory: Memory, kind: type[FakeDrafter], open_tiny: OpenEngine) -> None:
    """Four greedy answers with drafts, together, are those without, one by one. So it is for sliding windows, and even
    where the memory cannot go back and everything is computed anew."""
    plain = open_tiny(memory)
    alone = await ask_one_by_one(plain, PROMPTS, LONG)
    engine = open_tiny(memory, drafter=make_drafter(kind, answers(plain, PROMPTS, alone)))
    assert_same(await ask_all(engine, PROMPTS, LONG), alone)
    num_drafted, num_accepted = engine.stats.num_drafted_tokens, engine.stats.num_accepted_tokens
    assert num_drafted > 10
    if kind is RightDrafter:
        assert num_accepted == num_drafted
    if kind is WrongDrafter:
        assert num_accepted == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_equal_seeds_draw_the_same_text(kind: type[FakeDrafter], open_tiny: OpenEngine) -> None:
    """Each token is drawn by the sequence's own sampler, with all it remembers for its penalties."""
    plain = open_tiny()
    alone = await ask_one_by_one(plain, PROMPTS, WILD)
    engine = open_tiny(drafter=make_drafter(kind, answers(plain, PROMPTS, alone)))
    together = await ask_one_by_one(engine, PROMPTS, WILD)
    assert_same(together, alone)
    assert engine.stats.num_drafted_tokens > 0
    for mine, theirs in zip(together, alone, strict=True):
        assert [entry.logprob for entry in mine.logprobs] == pytest.approx(
            [e.logprob for e in theirs.logprobs], abs=1e-3
        )


async def test_only_few_draft(open_tiny: OpenEngine) -> None:
    """Where more generate than may draft, drafts begin when others have ended; no text changes on the way."""
    plain = open_tiny()
    params = [replace(GREEDY, max_tokens=number) for number in (10, 20, 60, 60)]
    alone = [await ask(plain, prompt, wanted) for prompt, wanted in zip(PROMPTS, params, strict=True)]
    engine = open_tiny(drafter=RightDrafter(answers(plain, PROMPTS, alone)), max_drafting=2)
    together = await asyncio.gather(*(ask(engine, p, wanted) for p, wanted in zip(PROMPTS, params, strict=True)))
    assert_same(together, alone)
    assert 0 < engine.stats.num_drafted_tokens < 150


@pytest.mark.parametrize("kind", KINDS)
async def test_ends_within_a_draft(kind: type[FakeDrafter], open_tiny: OpenEngine) -> None:
    """Wherever an answer ends, by its length or a stop string, its text and its usage are those without drafts, and
    the next turn continues from it."""
    plain = open_tiny()
    full = await ask(plain, PROMPTS[0], LONG)
    engine = open_tiny(drafter=make_drafter(kind, answers(plain, PROMPTS[:1], [full])))
    stops = [full.text[place : place + 2] for place in range(8, 24, 3)]
    ends = [replace(LONG, max_tokens=number) for number in range(1, 14)] + [replace(LONG, stop=(s,)) for s in stops]
    for params in ends:
        await forget(engine)
        await forget(plain)
        expected, answer = await ask(plain, PROMPTS[0], params), await ask(engine, PROMPTS[0], params)
        assert (answer.text, answer.token_ids, answer.usage) == (expected.text, expected.token_ids, expected.usage)
        turn = engine.runner.tokenize(PROMPTS[0]) + answer.token_ids + [20, 21]
        await check_next_turn(engine, plain, turn)


async def check_next_turn(engine: Engine, plain: Engine, turn: list[int]) -> None:
    no_drafts = replace(GREEDY, max_tokens=2)  # the drafter does not know this prompt; with two tokens it is not asked
    expected, answer = await ask(plain, turn, no_drafts), await ask(engine, turn, no_drafts)
    assert answer.token_ids == expected.token_ids
    assert answer.usage == expected.usage


@for_each(SHARING)
async def test_preemption_with_drafts(memory: Memory, open_tiny: OpenEngine) -> None:
    """In a cache too small for all, sequences are preempted as without drafts, and no text changes."""
    plain = open_tiny(memory, n_ctx=256)
    params = replace(GREEDY, max_tokens=100)
    alone = await ask_one_by_one(plain, PROMPTS, params)
    engine = open_tiny(memory, n_ctx=256, drafter=MixedDrafter(answers(plain, PROMPTS, alone)))
    assert_same(await ask_all(engine, PROMPTS, params), alone)
    assert engine._loop._scheduler.num_preemptions > 0
    assert engine.stats.num_accepted_tokens > 0


async def test_llama_cpp_refuses_a_batch_with_drafts(open_tiny: OpenEngine) -> None:
    """When llama.cpp has less room than the engine believes, drafts go first, then sequences are preempted."""
    plain = open_tiny(n_ctx=256)
    params = replace(GREEDY, max_tokens=100)
    alone = await ask_one_by_one(plain, PROMPTS, params)
    engine = open_tiny(n_ctx=256, num_cells=2048, drafter=MixedDrafter(answers(plain, PROMPTS, alone)))
    assert_same(await ask_all(engine, PROMPTS, params), alone)
    assert engine._loop._scheduler.num_preemptions > 0


@for_each([Memory("llama"), Memory("gemma3"), WINDOW, *SPLIT])
async def test_random_traffic_with_drafts(memory: Memory, open_tiny: OpenEngine) -> None:
    """Many requests, some of them cancelled, in a cache too small for them: the others are answered as by a fresh one.
    The cache's own count agrees with llama.cpp's in every step."""
    engine, fresh = open_tiny(memory, n_ctx=256, drafter=RandomOrLookup()), open_tiny(memory, n_ctx=256)
    await check_random_traffic(engine, fresh)
    assert engine.stats.num_drafted_tokens > 50


class RandomOrLookup(RandomDrafter):
    """Whatever follows anywhere, and noise behind it."""

    def __init__(self) -> None:
        super().__init__()
        self._lookup = PromptLookup(sizes=(2, 1))

    def propose(self, sequences: Any, max_tokens: Any) -> list[list[int]]:
        found, noise = self._lookup.propose(sequences, max_tokens), super().propose(sequences, max_tokens)
        both = zip(found, noise, max_tokens, strict=True)
        return [(lookup[: limit // 2] + random_ids)[:limit] for lookup, random_ids, limit in both]


async def test_lookup_finds_what_repeats(open_tiny: OpenEngine) -> None:
    """A tiny model at temperature 0 soon repeats itself, or its prompt does."""
    plain = open_tiny()
    alone = await ask_one_by_one(plain, PROMPTS, LONG)
    engine = open_tiny(drafter=PromptLookup(sizes=(3, 2, 1)))
    assert_same(await ask_all(engine, PROMPTS, LONG), alone)
    assert engine.stats.num_drafted_tokens > 0
