"""The real engine on tiny models, exact enough to compare: float32 cache, no flash attention, one thread."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.batch import Batch
from handler.engine.cache.cache_size import CacheSize, Layout
from handler.engine.cache.kv_cache import KVCache
from handler.engine.engine import Engine
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.llama.projector import LlamaProjector
from handler.engine.llama.sampler_chain import SamplerChain
from handler.engine.media_encoder import MediaEncoder
from handler.engine.model_facts import Offload
from handler.engine.plan import ContextParams, EnginePlan, Machine, plan
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import SampledToken
from handler.engine.speculative.drafter import Drafter
from handler.engine.speculative.speculation import DraftLimits, Speculation
from handler.engine.step_times import StepTimes
from handler.engine.structured.grammar import GrammarCompiler
from handler.settings import Settings

MAX_DRAFT_TOKENS = 8
ON_CPU = Offload(n_gpu_layers=0)


def tiny_plan(
    *,
    n_ctx: int = 256,
    n_batch: int = 32,
    n_ubatch: int | None = None,
    num_slots: int = 2,
    swa_full: bool = True,
    flash_attn: str = "auto",
    cache_type: str = "f16",
    is_unified: bool = True,
    max_model_len: int = 0,
    max_drafting: int = 4,
    on_gpu: bool = False,
    exact_grid: int = 0,
) -> EnginePlan:
    """A plan for a CPU. `n_ctx` is each slot's, where they do not share cells. With `on_gpu` batches are computed when
    they are launched, as far as they are one ubatch, though there is no GPU."""
    return EnginePlan(
        on_gpu=on_gpu,
        limits=Limits(num_slots, n_batch, max_prompt_tokens=n_batch // 2, exact_grid=exact_grid),
        draft_limits=DraftLimits(max_drafting, MAX_DRAFT_TOKENS, n_batch),
        context=ContextParams(
            n_batch=n_batch,
            n_ubatch=n_ubatch or n_batch,
            n_threads=1,
            flash_attn=flash_attn,
            swa_full=swa_full,
            max_draft_tokens=num_slots * MAX_DRAFT_TOKENS,
        ),
        cache=CacheSize(
            n_ctx if is_unified else n_ctx * num_slots, cache_type, cache_type, "for a test", num_slots, is_unified
        ),
        can_shrink=False,
        num_slots=num_slots,
        max_model_len=max_model_len,
        sampler_threads=2,
    )


def open_runner(path: Path, **options: Any) -> ModelRunner:
    """A model on this machine's CPU, with `tiny_plan`'s options."""
    return ModelRunner(LlamaModel(path, ON_CPU), tiny_plan(**options))


def run(runner: ModelRunner, batch: Batch) -> list[list[SampledToken]]:
    """A whole step, without an engine."""
    times = StepTimes()
    runner.launch(batch, times)
    return runner.collect(batch, times)


class CheckedRunner(ModelRunner):
    """Holds our count against llama.cpp's own memory in every step, and remembers its samplers."""

    cache: KVCache | None = None

    def __init__(self, model: LlamaModel, plan: EnginePlan) -> None:
        super().__init__(model, plan)
        self.samplers: list[SamplerChain] = []

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> SamplerChain:
        sampler = super().make_sampler(params, prompt_token_ids)
        self.samplers.append(sampler)
        return sampler

    def launch(self, batch: Batch, times: StepTimes) -> None:
        assert self.cache is not None
        self.cache.check_integrity()
        memory = llama.llama_get_memory(self._context)
        whole = [slot for slot in self.cache.slots if slot.is_empty or slot.token_ids[-1] >= 0]  # not behind an image
        ends = [llama.llama_memory_seq_pos_max(memory, slot.seq_id) + 1 for slot in whole]
        believed = [self.memory.position(slot.seq_id, slot.num_tokens) for slot in whole]
        assert ends == believed, "llama.cpp's memory is not what we believe"
        super().launch(batch, times)


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
    on_gpu: bool = False,
    exact_grid: int = 0,
    flash_attn: str = "off",
    cache_type: str = "f32",
    adapters: Mapping[str, Path] | None = None,
    projector: Path | None = None,
) -> Iterator[Engine]:
    """`num_cells` is what the engine believes the cache to hold, where that is not the truth. `n_ctx` is each slot's,
    where they do not share cells."""
    model = LlamaModel(path, ON_CPU)
    model.load_adapters(adapters or {})
    settings = {"MAX_NUM_SEQS": num_slots, "N_BATCH": n_batch, "N_UBATCH": n_ubatch or n_batch}
    asked = Settings.from_env({name: str(value) for name, value in settings.items()})
    tiny = tiny_plan(
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=plan(asked, Machine(1, False), model.facts).context.n_ubatch,
        num_slots=num_slots,
        swa_full=swa_full,
        flash_attn=flash_attn,
        cache_type=cache_type,
        is_unified=kv_unified == "on",
        max_drafting=max_drafting,
        on_gpu=on_gpu,
        exact_grid=exact_grid,
    )
    runner = CheckedRunner(model, tiny)
    runner.num_cells = num_cells or runner.num_cells
    sees = projector and LlamaProjector(projector, model, n_threads=1, use_gpu=False)
    assert tiny.draft_limits is not None
    engine = Engine(
        runner,
        tiny.limits,
        max_queue=1000,
        schemas=GrammarCompiler(runner.vocabulary),
        speculation=Speculation(drafter, tiny.draft_limits) if drafter else None,
        encoder=MediaEncoder(sees) if sees else None,
    )
    runner.cache = engine._loop._scheduler.cache
    try:
        yield engine
    finally:
        engine.close()
    assert_nothing_left(engine, runner)


def assert_nothing_left(engine: Engine, runner: CheckedRunner) -> None:
    scheduler = engine._loop._scheduler
    assert engine.is_healthy
    assert engine._admission.num_sequences == 0
    assert not engine._loop._generations
    assert not scheduler.has_work
    assert not any(slot.is_claimed for slot in scheduler.cache.slots)
    assert not any(sampler._finalizer.alive for sampler in runner.samplers)
    scheduler.cache.check_integrity()
