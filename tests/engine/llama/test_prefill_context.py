"""Prompts that a second context computes: their states are those of the decoding context, to the bit."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
import pytest

from handler.engine.cache.split_cache import SplitCache
from handler.engine.engine import Engine
from handler.engine.llama import context
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import native_params
from handler.engine.llama.expanded_file import ExpandedFile
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.prefill_context import LlamaPrefillContext
from handler.engine.part_size import FixedPartSize
from handler.engine.plan import PrefillPlan
from handler.engine.prefill_lane import MIN_TOKENS, NoPrefillLane, PrefillLane
from handler.engine.prefill_queue import Piece, Prefill, PrefillQueue
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits, Scheduler
from handler.engine.sequence import Sequence
from handler.engine.structured.grammar import GrammarCompiler
from handler.errors import EngineError
from tests.engine.llama.tiny_engine import ON_CPU, run, tiny_plan
from tests.tiny_models import Architecture

NUM_SLOTS, N_CTX, PART = 5, 512, 16
PROMPTS = [[5 + (number * 31 + place * 7) % 200 for place in range(60 + 25 * number)] for number in range(6)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


@pytest.fixture
def runner(tiny_model_paths: Mapping[Architecture, Path], monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """A cache split among slots, and a plan for prompts; llama.cpp counts the graphs that it reuses."""

    def with_counters(*args: Any) -> Any:
        params = native_params(*args)
        params.no_perf = False
        return params

    monkeypatch.setattr(context, "native_params", with_counters)
    plan = tiny_plan(
        n_ctx=N_CTX, n_batch=256, num_slots=NUM_SLOTS, is_unified=False, flash_attn="off", cache_type="f32"
    )
    with_prefill = replace(
        plan,
        prefill=PrefillPlan(
            num_streams=4, num_cells=2 * N_CTX, max_tokens=N_CTX, max_part=64, part_tokens=PART, max_gap=1.8
        ),
    )
    return ModelRunner(LlamaModel(tiny_model_paths["llama"], ON_CPU), with_prefill)


def open_prefill(runner: ModelRunner) -> LlamaPrefillContext:
    prefill_context = runner.open_prefill_context()
    assert prefill_context is not None
    return prefill_context


def compute(prompts: LlamaPrefillContext, runner: ModelRunner, part: int) -> list[Prefill]:
    """All of PROMPTS, packed into parts as the lane does."""
    queue = PrefillQueue(prompts.num_streams, prompts.num_cells)
    prefills = [Prefill(sequence_of(runner, prompt, 1), prompt[:-1]) for prompt in PROMPTS]
    for prefill in prefills:
        queue.add(prefill)
    while pieces := queue.next_part(part):
        prompts.compute(pieces)
        for prefill, stream, _, token_ids in pieces:
            prefill.num_computed += len(token_ids)
            if not prefill.num_left:
                prefill.state = prompts.state(stream)
                queue.remove(prefill)
    for prefill in prefills:
        prefill.sequence.close()
    return prefills


@pytest.mark.parametrize("part", [PART, 64])
def test_states_move_to_any_slot(runner: ModelRunner, part: int) -> None:
    """However the prompts shared the parts: the next token's logits are those of a prompt computed in place."""
    with closing(runner), closing(open_prefill(runner)) as prompts:
        for prefill, prompt in zip(compute(prompts, runner, part), PROMPTS, strict=True):
            for seq_id in (3, 0):
                assert runner.memory.restore(seq_id, prefill.state)
            moved, in_place = logits(runner, prompt, 3, len(prompt) - 1), logits(runner, prompt, 2, 0)
            assert np.allclose(moved, in_place, rtol=0, atol=1e-4)


def logits(runner: ModelRunner, prompt: list[int], seq_id: int, start: int) -> npt.NDArray[np.float32]:
    """Of the token after the prompt, of which the first `start` tokens are in the slot."""
    tokens = prompt[start:]
    buffer = BatchBuffer(len(tokens))
    with closing(sequence_of(runner, prompt, 1)) as sequence:
        buffer.fill_pieces([Piece(Prefill(sequence, []), seq_id, start, tokens)])
    buffer.struct.logits[len(tokens) - 1] = 1
    if start == 0:
        runner.memory.clear(seq_id)
    assert llama.llama_decode(runner._context, buffer.struct) == 0
    pointer = llama.llama_get_logits(runner._context)
    return np.ctypeslib.as_array(pointer, shape=(runner.vocabulary.num_tokens,)).copy()


def test_states_of_a_copy_of_the_model(runner: ModelRunner, tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """Loaded in 16 bits beside it, for prompts alone: they move as those of the model itself."""
    path = tiny_model_paths["llama"]  # of which nothing is quantised, so that the numbers are the same
    with closing(ExpandedFile([path], 1)) as file:
        copy = LlamaModel(path, ON_CPU, source=file)
    with closing(runner), closing(runner.open_expanded_prefill_context(copy)) as prompts:
        for prefill, prompt in zip(compute(prompts, runner, PART), PROMPTS, strict=True):
            assert runner.memory.restore(3, prefill.state)
            moved, in_place = logits(runner, prompt, 3, len(prompt) - 1), logits(runner, prompt, 2, 0)
            assert np.allclose(moved, in_place, rtol=0, atol=1e-4)


def test_a_state_for_another_number_of_streams_is_refused(runner: ModelRunner) -> None:
    """By llama.cpp itself, without harm."""
    with closing(runner), closing(open_prefill(runner)) as prompts:
        prompts._num_target_streams = NUM_SLOTS + 1

        assert not runner.memory.restore(1, compute(prompts, runner, PART)[0].state)


def test_no_room_for_a_second_context(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker starts all the same, and the log says what it does without."""
    monkeypatch.setattr(llama, "llama_init_from_model", lambda *_: None)

    with closing(runner):
        assert runner.open_prefill_context() is None
    assert "Prompts are computed with the answers." in caplog.text


async def answers(engine: Engine) -> list[str]:
    """Of prompts that come while others generate."""
    texts = [""] * len(PROMPTS)
    generations = []
    for number, prompt in enumerate(PROMPTS):
        generations.append(await engine.generate([prompt], GREEDY))
        texts[number] = (await anext(generations[number]))[0].text
    for number, generation in enumerate(generations):
        async for outputs in generation:
            texts[number] += outputs[0].text
    return texts


def test_texts_are_those_without_a_lane(tiny_model_paths: Mapping[Architecture, Path], runner: ModelRunner) -> None:
    """Float32 and one thread: equal, whichever context computed the prompt."""
    taken: list[int] = []

    class CountingLane(PrefillLane):
        def takes(self, num_tokens: int) -> bool:
            taken.append(num_tokens)
            return super().takes(num_tokens)

    limits = Limits(4, 256, 64)
    lane = CountingLane(open_prefill(runner), FixedPartSize(PART))
    with closing(Engine(runner, limits, max_queue=9, schemas=GrammarCompiler(runner.vocabulary), lane=lane)) as engine:
        with_lane = asyncio.run(answers(engine))
    plan = tiny_plan(
        n_ctx=N_CTX, n_batch=256, num_slots=NUM_SLOTS, is_unified=False, flash_attn="off", cache_type="f32"
    )
    plain = ModelRunner(LlamaModel(tiny_model_paths["llama"], ON_CPU), plan)
    with closing(Engine(plain, limits, max_queue=9, schemas=GrammarCompiler(plain.vocabulary))) as engine:
        without = asyncio.run(answers(engine))

    assert with_lane == without
    assert len(taken) >= 3


class InlineLane(NoPrefillLane):
    """Computes a prompt at once."""

    def __init__(self, prefill_context: LlamaPrefillContext) -> None:
        self._context = prefill_context
        self._finished: list[Prefill] = []

    def takes(self, num_tokens: int) -> bool:
        return num_tokens >= MIN_TOKENS

    def submit(self, prefill: Prefill) -> None:
        for start in range(0, len(prefill.token_ids), PART):
            self._context.compute([Piece(prefill, 0, start, prefill.token_ids[start : start + PART])])
        prefill.state = self._context.state(0)
        self._finished.append(prefill)

    def take_finished(self) -> list[Prefill]:
        finished, self._finished = self._finished, []
        return finished


def test_generating_steps_reuse_their_graph(runner: ModelRunner) -> None:
    """Under random arrivals and departures: nearly every step without a prompt finds the shape of the one before."""
    rng = random.Random(1)
    with closing(runner), closing(open_prefill(runner)) as prefill_context:
        cache = SplitCache(runner.memory, num_slots=NUM_SLOTS, num_cells=NUM_SLOTS * N_CTX)
        scheduler = Scheduler(cache, Limits(4, 256, 64), InlineLane(prefill_context))
        num_steps = num_reused = 0
        for number in range(600):
            if len(scheduler.running) + len(scheduler.waiting) < 4 and rng.random() < 0.3:
                prompt = [number % 200, *rng.choices(range(5, 200), k=rng.randrange(60, 150))]
                scheduler.add(sequence_of(runner, prompt, rng.randrange(8, 40)))
            if not scheduler.has_work:
                continue
            before = llama.llama_perf_context(runner._context).n_reused
            batch = scheduler.schedule()
            scheduler.postprocess(batch, run(runner, batch))
            if all(item.num_rows == 1 for item in batch.items):
                num_steps += 1
                num_reused += llama.llama_perf_context(runner._context).n_reused - before
        scheduler.fail(list(scheduler.running), EngineError("over"))

    assert num_steps > 300
    assert num_reused >= 0.98 * num_steps


def sequence_of(runner: ModelRunner, prompt: list[int], max_tokens: int) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens)
    return Sequence(
        prompt,
        params,
        vocabulary=runner.vocabulary,
        max_num_tokens=runner.max_model_len,
        sampler=runner.make_sampler(params, prompt),
    )
