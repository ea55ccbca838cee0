"""Seeded answers that are equal to the bit, whatever else runs: llama.cpp itself, on tiny models.

A logprob that is given out is a float of the sampled token's whole row, so equal ones are equal bits.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handler.engine.engine import Engine
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.sampling_params import SamplingParams
from tests.engine.asking import Answer, ask
from tests.engine.fake_drafters import RandomDrafter
from tests.engine.llama.random_traffic import random_tokens
from tests.engine.llama.tiny_engine import open_engine
from tests.tiny_models import Architecture

GRID = 32
SEEDED = SamplingParams(temperature=1.2, seed=5, max_tokens=30, num_logprobs=0, ignore_eos=True)
OTHER = replace(SEEDED, seed=None, max_tokens=12)
NUM_OTHERS = 5
PROMPTS = [random_tokens(random.Random(f"prompt {number}"), 20 + 45 * number) for number in range(4)]

OpenEngine = Callable[..., Engine]


@pytest.fixture(params=["llama", "qwen2"])
def open_exact(request: pytest.FixtureRequest, tiny_model_paths: Mapping[Architecture, Path]) -> Iterator[OpenEngine]:
    """Engines with a half-precision cache and flash attention, whose kernels differ by shape."""
    with ExitStack() as stack:

        def open_one(**config: Any) -> Engine:
            kinds = {"kv_unified": "off", "flash_attn": "on", "cache_type": "f16", "num_slots": 10}
            config = {**kinds, "exact_grid": GRID, **config}
            return stack.enter_context(open_engine(tiny_model_paths[request.param], **config))

        yield open_one


async def ask_among(engine: Engine, prompts: list[list[int]]) -> list[Answer]:
    """All at once, while others come and go, some of them with the same beginnings."""
    rng = random.Random(1)
    is_over = asyncio.Event()

    async def other() -> None:
        while not is_over.is_set():
            begins = rng.choice(prompts)[: rng.randrange(150)] if rng.random() < 0.5 else []
            await ask(engine, begins + random_tokens(rng, rng.randrange(1, 200)), OTHER)

    others = [asyncio.create_task(other()) for _ in range(NUM_OTHERS)]
    await asyncio.sleep(0.05)
    answers = [await asyncio.gather(*(ask(engine, prompt, SEEDED) for prompt in prompts)) for _ in range(2)]
    is_over.set()
    await asyncio.gather(*others)
    return [answer for both in zip(*answers, strict=True) for answer in both]


async def alone(engine: Engine, prompt: list[int]) -> Answer:
    return await ask(engine, prompt, SEEDED)


def bits(answer: Answer) -> list[tuple[int, float]]:
    return [(entry.token_id, entry.logprob) for entry in answer.logprobs]


@pytest.mark.parametrize("drafts", [False, True])
async def test_alone_and_among_others(drafts: bool, open_exact: OpenEngine) -> None:
    """Every bit of every logit that was drawn from, also where others are drafted for, and where the second time parts
    of the prompt are still cached."""
    expected = [bits(await alone(open_exact(), prompt)) for prompt in PROMPTS]
    engine = open_exact(drafter=RandomDrafter() if drafts else None)
    answers = await ask_among(engine, PROMPTS)
    assert [bits(answer) for answer in answers] == [one for one in expected for _ in range(2)]


async def test_a_second_turn_is_that_of_a_fresh_engine(open_exact: OpenEngine) -> None:
    """It reuses whole parts of the first turn's prompt, and computes the rest as if all were new."""
    engine = open_exact()
    first = await alone(engine, PROMPTS[3])
    turn = PROMPTS[3] + first.token_ids + [7, 8, 9]
    second = await alone(engine, turn)
    fresh = await alone(open_exact(), turn)
    assert second.usage.num_cached_tokens == (len(PROMPTS[3]) - 1) // GRID * GRID
    assert bits(second) == bits(fresh)


async def test_each_call_of_llama_decode_holds_one_exact_sequence_or_the_others(
    open_exact: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where it is called: no padding, no draft, no token of another, and shapes that the prompts alone give."""
    engine = open_exact(drafter=RandomDrafter())
    seen: list[tuple[int, tuple[int, ...]]] = []  # number of tokens, and the seq_ids, of calls with exact sequences
    fill = BatchBuffer.fill
    call = ModelRunner._call_decode
    exact = False

    def note_fill(buffer: BatchBuffer, batch: Any) -> None:
        nonlocal exact
        fill(buffer, batch)
        exact = any(item.sequence.params.seed is not None for item in batch.items)

    def note_call(runner: ModelRunner) -> None:
        buffer = runner._buffer
        if exact:
            seen.append((buffer.num_tokens, tuple(buffer._seq_id[: buffer.num_tokens])))
        call(runner)

    monkeypatch.setattr(BatchBuffer, "fill", note_fill)
    monkeypatch.setattr(ModelRunner, "_call_decode", note_call)
    answers = await ask_among(engine, PROMPTS)

    assert all(len(set(seq_ids)) == 1 for _, seq_ids in seen)
    tails = {(len(prompt) - 1) % GRID + 1 for prompt in PROMPTS}
    assert {num_tokens for num_tokens, _ in seen} == {1, GRID, *tails}
    assert len(seen) >= sum(answer.usage.num_completion_tokens for answer in answers)


async def test_without_it_bits_differ(open_exact: OpenEngine) -> None:
    """So the comparison above can fail."""
    expected = [bits(await alone(open_exact(exact_grid=0), prompt)) for prompt in PROMPTS]
    answers = await ask_among(open_exact(exact_grid=0), PROMPTS)
    assert [bits(answer) for answer in answers] != [one for one in expected for _ in range(2)]
