"""llama.cpp itself, on tiny models of every kind of memory: reuse, batching and preemption change no text."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from handler.engine.cache.cache_size import Layout
from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason
from tests.engine.asking import GREEDY, ask, ask_all, ask_one_by_one, assert_same_tokens, forget
from tests.engine.llama.random_traffic import check_random_traffic, random_tokens
from tests.engine.llama.tiny_engine import open_engine
from tests.tiny_models import ARCHITECTURES, Architecture

SYSTEM = "the world is on the hello of wording and the erring is to the on-ing of the world; "
PROMPTS = ["hello world", "the end of a long story, " * 5, SYSTEM + "one", SYSTEM + "two is another"]
TWO_BEST = replace(GREEDY, num_logprobs=2)

OpenEngine = Callable[..., Engine]


class Memory(NamedTuple):
    architecture: Architecture
    swa_full: bool = True  # a sliding window's cache may be as large as the others', or the window's size
    kv_unified: Layout = "on"

    @property
    def name(self) -> str:
        parts = [self.architecture, "" if self.swa_full else "window", "" if self.kv_unified == "on" else "split"]
        return "-".join(filter(None, parts))


SPLIT = [Memory("llama", kv_unified="off"), Memory("qwen2", kv_unified="off")]
WINDOW = Memory("gemma3", swa_full=False)
SHARING_CELLS = [*map(Memory, ARCHITECTURES), WINDOW]
MEMORIES = [*SHARING_CELLS, *SPLIT]
SHARING = [Memory("llama"), Memory("qwen2"), Memory("gemma3")]
RECURRENT = [Memory("mamba"), Memory("jamba")]


def for_each(memories: list[Memory]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("memory", memories, ids=[memory.name for memory in memories])


@pytest.fixture
def open_tiny(tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[OpenEngine]:
    """Open engines on tiny models; they are closed after the test, and must have nothing left then."""
    with ExitStack() as stack:

        def open_one(memory: Memory, **config: Any) -> Engine:
            config = {"swa_full": memory.swa_full, "kv_unified": memory.kv_unified, **config}
            return stack.enter_context(open_engine(tiny_model_paths[memory.architecture], **config))

        yield open_one


def all_logprobs(engine: Engine) -> SamplingParams:
    return replace(GREEDY, max_tokens=8, num_logprobs=engine.runner.vocabulary.num_tokens)


async def assert_as_fresh(engine: Engine, prompt: list[int], num_cached_tokens: int) -> None:
    """The prompt reuses that many tokens, and every logit of its answer is that of an empty cache."""
    params = all_logprobs(engine)
    cached = await ask(engine, prompt, params)
    assert cached.usage.num_cached_tokens == num_cached_tokens
    await forget(engine)
    fresh = await ask(engine, prompt, params)
    assert cached.token_ids == fresh.token_ids
    np.testing.assert_allclose(cached.distributions, fresh.distributions, atol=1e-4)


@for_each(MEMORIES)
async def test_batch_gives_what_each_prompt_gives_alone(memory: Memory, open_tiny: OpenEngine) -> None:
    """Four greedy answers computed together are the four computed one by one."""
    engine = open_tiny(memory)
    alone = await ask_one_by_one(engine, PROMPTS)
    await forget(engine)
    together = await ask_all(engine, PROMPTS)
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


@for_each(MEMORIES)
async def test_next_turn_reuses_the_conversation(memory: Memory, open_tiny: OpenEngine) -> None:
    """A continued conversation computes only what is new, and its logits are those of a fresh run."""
    engine = open_tiny(memory)
    prompt = engine.runner.tokenize(SYSTEM + "one")
    first = await ask(engine, prompt)
    turn = prompt + first.token_ids + engine.runner.tokenize(" and then?")
    await assert_as_fresh(engine, turn, num_cached_tokens=len(prompt) + len(first.token_ids) - 1)


@for_each([*SHARING, *SPLIT])
@pytest.mark.parametrize("num_slots", [1, 4], ids=["in-place", "copied"])
async def test_prefix_is_reused(memory: Memory, num_slots: int, open_tiny: OpenEngine) -> None:
    """A common beginning is kept or copied, and the logits are those of a fresh run."""
    engine = open_tiny(memory, num_slots=num_slots)
    prompt = random_tokens(random.Random(1), 100)
    await ask(engine, prompt)
    await assert_as_fresh(engine, [*prompt[:80], 7, 8, 9], num_cached_tokens=80)


@for_each(RECURRENT)
async def test_prefix_that_cannot_be_reused(memory: Memory, open_tiny: OpenEngine) -> None:
    """A memory that cannot go back computes the prompt again, rather than answer from a wrong state."""
    engine = open_tiny(memory)
    prompt = random_tokens(random.Random(3), 100)
    await ask(engine, prompt)
    await assert_as_fresh(engine, [*prompt[:50], 7, 8, 9], num_cached_tokens=0)


@for_each([*SHARING, *SPLIT])
async def test_running_sequences_share_their_prefix(memory: Memory, open_tiny: OpenEngine) -> None:
    """Equal prompts at the same time are computed once, and all continue as if alone."""
    engine = open_tiny(memory, num_slots=8)
    prompt = SYSTEM * 2 + "go"
    alone = await ask(engine, prompt)
    await forget(engine)
    generation = await engine.generate([prompt], replace(GREEDY, num_logprobs=None), n=8)
    texts = [""] * 8
    async for outputs in generation:
        for index, output in outputs.items():
            texts[index] += output.text
    assert texts == [alone.text] * 8
    cached = sorted(sequence.num_cached_tokens for sequence in generation.sequences)
    assert cached[0] == 0
    assert cached[1] >= alone.usage.num_prompt_tokens - 32


@for_each(MEMORIES)
async def test_many_prompts_one_after_another(memory: Memory, open_tiny: OpenEngine) -> None:
    """However full the cache and whatever was there before, each answer is that of an empty cache.

    llama.cpp writes over what a sliding window has passed, even in a cache with room for all of it.
    """
    rng = random.Random(4)
    engine, fresh = open_tiny(memory, n_ctx=512), open_tiny(memory, n_ctx=512)
    base = random_tokens(rng, 100)
    params = replace(GREEDY, max_tokens=40, num_logprobs=2)
    num_cached_tokens = 0
    for _ in range(40):
        begins = base[: rng.randrange(20, 100)] if rng.random() < 0.3 else []
        prompt = begins + random_tokens(rng, rng.randrange(1, 100))
        answer = await ask(engine, prompt, params)
        num_cached_tokens += answer.usage.num_cached_tokens
        await forget(fresh)
        assert_same_tokens(answer, await ask(fresh, prompt, params))
    assert num_cached_tokens > 50 or memory not in [*SHARING, *SPLIT]


async def test_small_window_cache_says_what_the_full_one_says(open_tiny: OpenEngine) -> None:
    """Far beyond the window, over several turns of several chats, the small cache changes nothing."""
    small, full = open_tiny(WINDOW), open_tiny(Memory("gemma3"))
    params = replace(GREEDY, max_tokens=30)
    chats = [small.runner.tokenize(prompt) for prompt in PROMPTS]
    for turn in range(3):
        answers = await asyncio.gather(*(ask(small, chat, params) for chat in chats))
        references = await asyncio.gather(*(ask(full, chat, params) for chat in chats))
        assert [answer.token_ids for answer in answers] == [reference.token_ids for reference in references]
        assert all(answer.usage.num_cached_tokens > 32 for answer in answers) is (turn > 0)
        chats = [chat + answer.token_ids + [turn + 10] for chat, answer in zip(chats, answers, strict=True)]
    assert max(map(len, chats)) > 5 * 32


@for_each(SHARING_CELLS)
async def test_preemption_changes_no_text(memory: Memory, open_tiny: OpenEngine) -> None:
    """Four answers that do not fit the cache together are those given one by one."""
    engine = open_tiny(memory, n_ctx=256)
    params = replace(GREEDY, max_tokens=100)
    alone = await ask_one_by_one(engine, PROMPTS, params)
    await forget(engine)
    together = await ask_all(engine, PROMPTS, params)
    assert engine._loop._scheduler.num_preemptions > 0
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
    assert [answer.usage.num_completion_tokens for answer in together] == [100] * 4


@for_each(SHARING)
async def test_llama_cpp_refuses_a_batch(memory: Memory, open_tiny: OpenEngine) -> None:
    """When llama.cpp has less room than the engine believes, sequences are preempted and no text changes."""
    engine = open_tiny(memory, n_ctx=256, num_cells=2048)
    params = replace(GREEDY, max_tokens=100)
    alone = await ask_one_by_one(engine, PROMPTS, params)
    together = await ask_all(engine, PROMPTS, params)
    assert engine._loop._scheduler.num_preemptions > 0
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]


@for_each(MEMORIES)
async def test_context_is_used_to_its_end(memory: Memory, open_tiny: OpenEngine) -> None:
    """Without max_tokens an answer ends where the context does."""
    engine = open_tiny(memory, n_ctx=256)
    answer = await ask(engine, "hello", replace(GREEDY, max_tokens=None))
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage.num_prompt_tokens + answer.usage.num_completion_tokens == 256


@for_each(MEMORIES)
async def test_random_traffic(memory: Memory, open_tiny: OpenEngine) -> None:
    """Hundreds of requests in a cache too small for them: the others are answered as by a fresh one."""
    num_clients, num_turns = (10, 22) if memory == Memory("llama") else (6, 8)
    engine, fresh = open_tiny(memory, n_ctx=256, num_slots=6), open_tiny(memory, n_ctx=256)
    await check_random_traffic(engine, fresh, num_clients=num_clients, num_turns=num_turns)
    assert engine._loop._scheduler.num_preemptions > 0 or memory in SPLIT


@pytest.mark.parametrize("memory", [WINDOW, Memory("gemma3")], ids=["window", "full"])
async def test_parts_of_a_batch_beside_a_window(memory: Memory, open_tiny: OpenEngine) -> None:
    """What is set as N_UBATCH must not cost a sliding window the cells that an earlier part of a batch needs."""
    engine, fresh = open_tiny(memory, n_ctx=256, num_slots=6, n_ubatch=16), open_tiny(memory, n_ctx=256)
    await check_random_traffic(engine, fresh, num_clients=6)


@pytest.mark.parametrize("n_ubatch", [64, 16])
@for_each([*SPLIT, Memory("llama")])
async def test_computed_at_launch(memory: Memory, n_ubatch: int, open_tiny: OpenEngine) -> None:
    """As on a GPU: batches that llama.cpp computes in one piece are decoded by `launch`, larger ones by `collect`, and
    the answers are the same."""
    alone = await ask_one_by_one(open_tiny(memory), PROMPTS)
    early = await ask_all(open_tiny(memory, n_ubatch=n_ubatch, on_gpu=True), PROMPTS)
    for answer, reference in zip(early, alone, strict=True):
        assert answer.text == reference.text
