"""The real engine on tiny models, exact enough to compare: float32 cache, no flash attention, one thread."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.engine.batch import Batch
from handler.engine.cache.cache_size import Layout
from handler.engine.cache.kv_cache import KVCache
from handler.engine.engine import Engine
from handler.engine.generation import Generation
from handler.engine.llama.context import RunnerConfig
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.sampler_chain import SamplerChain
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import FinishReason, SampledToken, SequenceUsage, TokenLogprob
from handler.engine.speculative.drafter import Drafter
from handler.engine.speculative.speculation import DraftLimits, Speculation

TIMEOUT = 30.0  # seconds until a test that hangs fails
GREEDY = SamplingParams(temperature=0, max_tokens=24, num_logprobs=0)
MAX_DRAFT_TOKENS = 8
TIE = 1e-3  # a lead that rounding might turn around


class CheckedRunner(ModelRunner):
    """Holds our count against llama.cpp's own memory in every step, and remembers its samplers."""

    cache: KVCache | None = None

    def __init__(self, path: Path, config: RunnerConfig) -> None:
        super().__init__(path, config)
        self.samplers: list[SamplerChain] = []

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> SamplerChain:
        sampler = super().make_sampler(params, prompt_token_ids)
        self.samplers.append(sampler)
        return sampler

    def run(self, batch: Batch, meanwhile: Callable[[], None] = lambda: None) -> list[list[SampledToken]]:
        assert self.cache is not None
        self.cache.check_integrity()
        memory = llama.llama_get_memory(self._context)
        ends = [llama.llama_memory_seq_pos_max(memory, slot.seq_id) + 1 for slot in self.cache.slots]
        assert ends == [slot.num_tokens for slot in self.cache.slots], "llama.cpp's memory is not what we believe"
        return super().run(batch, meanwhile)


class Answer(NamedTuple):
    """All that came of one sequence."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None
    usage: SequenceUsage

    @property
    def token_ids(self) -> list[int]:
        return [entry.token_id for entry in self.logprobs]

    @property
    def distributions(self) -> npt.NDArray[np.float64]:
        """A row of logprobs in the order of the vocabulary for each token, if all of them were asked for."""
        return np.array([[entry.logprob for entry in sorted(step.top)] for step in self.logprobs])


@contextmanager
def open_engine(
    path: Path,
    *,
    n_ctx: int = 1024,
    n_batch: int = 64,
    num_slots: int = 4,
    swa_full: bool = True,
    num_cells: int | None = None,
    drafter: Drafter | None = None,
    max_drafting: int = 4,
    kv_unified: Layout = "on",
    n_ubatch: int | None = None,
) -> Iterator[Engine]:
    """`num_cells` is what the engine believes the cache to hold, where that is not the truth. `n_ctx` is each slot's,
    where they do not share cells."""
    config = tiny_config(n_ctx=n_ctx, n_batch=n_batch, num_slots=num_slots, swa_full=swa_full, kv_unified=kv_unified)
    config = replace(config, n_ubatch=n_ubatch or n_batch)
    runner = CheckedRunner(path, config)
    runner.num_cells = num_cells or runner.num_cells
    speculation = Speculation(drafter, DraftLimits(max_drafting, MAX_DRAFT_TOKENS, n_batch)) if drafter else None
    limits = Limits(num_slots, n_batch, max_prompt_tokens=n_batch // 2)
    engine = Engine(runner, limits, max_queue=1000, speculation=speculation)
    runner.cache = engine._scheduler.cache
    try:
        yield engine
    finally:
        engine.close()
    assert_nothing_left(engine, runner)


def tiny_config(
    *, n_ctx: int, n_batch: int, num_slots: int, swa_full: bool = True, kv_unified: Layout = "on"
) -> RunnerConfig:
    return RunnerConfig(
        n_ctx=n_ctx if kv_unified == "on" else n_ctx * num_slots,
        n_batch=n_batch,
        n_ubatch=n_batch,
        n_gpu_layers=0,
        n_threads=1,
        flash_attn="off",
        swa_full=swa_full,
        num_slots=num_slots,
        sampler_threads=2,
        type_k="f32",
        type_v="f32",
        kv_unified=kv_unified,
        max_draft_tokens=num_slots * MAX_DRAFT_TOKENS,
    )


def assert_nothing_left(engine: Engine, runner: CheckedRunner) -> None:
    scheduler = engine._scheduler
    assert engine.is_healthy
    assert engine._num_open == 0
    assert not engine._generations
    assert not scheduler.has_work
    assert not any(slot.is_claimed for slot in scheduler.cache.slots)
    assert not any(sampler._finalizer.alive for sampler in runner.samplers)
    scheduler.cache.check_integrity()


async def ask(engine: Engine, prompt: str | list[int], params: SamplingParams = GREEDY) -> Answer:
    return await read(await engine.generate([prompt], params))


async def ask_all(engine: Engine, prompts: list[str], params: SamplingParams = GREEDY) -> list[Answer]:
    return list(await asyncio.gather(*(ask(engine, prompt, params) for prompt in prompts)))


async def ask_one_by_one(engine: Engine, prompts: list[str], params: SamplingParams = GREEDY) -> list[Answer]:
    """Each alone, in a cache that has nothing to reuse."""
    answers = []
    for prompt in prompts:
        await forget(engine)
        answers.append(await ask(engine, prompt, params))
    return answers


async def forget(engine: Engine) -> None:
    """Empty the cache of an idle engine, in its own thread."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reset() -> None:
        engine._scheduler.cache.reset()
        loop.call_soon_threadsafe(done.set)

    engine._inbox.put(reset)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()


async def read(generation: Generation) -> Answer:
    text = ""
    logprobs: list[TokenLogprob] = []
    finish_reason, usage = None, SequenceUsage(0, 0, 0)
    async with asyncio.timeout(TIMEOUT):
        async for outputs in generation:
            for output in outputs.values():
                text += output.text
                logprobs += output.logprobs
                finish_reason, usage = output.finish_reason, output.usage or usage
    return Answer(text, tuple(logprobs), finish_reason, usage)


def assert_same_tokens(answer: Answer, reference: Answer) -> None:
    """Equal, up to where the reference's two best tokens are too close to call; it knows its two best."""
    leads = [step.top[0].logprob - step.top[1].logprob for step in reference.logprobs]
    end = next((index for index, lead in enumerate(leads) if lead < TIE), len(leads))
    assert answer.token_ids[:end] == reference.token_ids[:end]
