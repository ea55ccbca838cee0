"""From settings to loaded models: what is left open is chosen here, by the machine. Imports llama.cpp."""

import logging
from typing import NamedTuple

from handler.cpu_quota import num_usable_cores
from handler.engine.cache.cache_size import Layout
from handler.engine.llama.context import RunnerConfig, supports_gpu
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.scheduler import Limits
from handler.engine.speculative.prompt_lookup import PromptLookup
from handler.engine.speculative.speculation import DraftLimits, Speculation
from handler.errors import ConfigError
from handler.models.locate import locate
from handler.settings import Settings

log = logging.getLogger(__name__)

MAX_SAMPLER_THREADS = 12
MAX_SLOTS = 256  # llama.cpp's own limit on seq_ids
MAX_BURST_ON_GPU, MAX_BURST_ON_CPU = 8192, 2048  # prompt tokens: about a second, and some seconds
# What a cached token costs each token that others generate, and what it costs to compute anew: 20 ns and 80 us on an
# H100, 0.12 us and 8 ms on two CPU cores.
MAX_IDLE_ON_GPU, MAX_IDLE_ON_CPU = 4_000, 60_000
MAX_DRAFTING_ON_GPU, MAX_DRAFTING_ON_CPU = 8, 4  # sequences: with more, a step has enough to compute without drafts


class LoadedModel(NamedTuple):
    runner: ModelRunner
    speculation: Speculation | None = None


def load_model(settings: Settings) -> LoadedModel:
    """Find or download the model and load it. Blocks; raises ModelError or ConfigError."""
    path, on_gpu = locate(settings), supports_gpu()
    runner = ModelRunner(path, runner_config(settings, on_gpu=on_gpu))
    log.info(
        "model loaded in %s: %d slots %s a cache of %d tokens, %d a sequence at most",
        runner.load_time, runner.num_slots, "share" if runner.memory.is_unified else "divide", runner.num_cells,
        runner.max_model_len,
    )  # fmt: skip
    return LoadedModel(runner, _speculation(settings, runner, on_gpu=on_gpu))


def _speculation(settings: Settings, runner: ModelRunner, *, on_gpu: bool) -> Speculation | None:
    if settings.speculate == "off":
        return None
    if not runner.memory.can_go_back:
        raise ConfigError(
            f"SPECULATE has value '{settings.speculate}': recurrent and hybrid models keep only their latest state, "
            "and would compute everything anew after each wrong draft. Set it to off."
        )
    return Speculation(PromptLookup(), draft_limits(settings, on_gpu=on_gpu))


def runner_config(settings: Settings, *, on_gpu: bool) -> RunnerConfig:
    num_cores, drafts = num_usable_cores(), draft_limits(settings, on_gpu=on_gpu)
    return RunnerConfig(
        n_ctx=settings.n_ctx,
        n_batch=max_batch_tokens(settings, on_gpu=on_gpu),
        n_ubatch=settings.n_ubatch,
        n_gpu_layers=settings.n_gpu_layers,
        n_threads=settings.n_threads or num_cores,
        flash_attn=settings.flash_attn,
        swa_full=settings.swa_full,
        num_slots=min(2 * settings.max_num_seqs, MAX_SLOTS),  # half of them may keep finished conversations
        sampler_threads=settings.sampler_threads or min(num_cores, MAX_SAMPLER_THREADS),
        max_model_len=settings.max_model_len,
        type_k=settings.cache_type_k,
        type_v=settings.cache_type_v,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=settings.tensor_split,
        max_num_seqs=settings.max_num_seqs,
        kv_unified=_layout(settings),
        max_draft_tokens=0 if settings.speculate == "off" else drafts.max_num_seqs * drafts.max_tokens,
    )


def _layout(settings: Settings) -> Layout:
    """Drafts of different lengths would be computed one after the other, if each slot had a stream."""
    return "on" if settings.kv_unified == "auto" and settings.speculate != "off" else settings.kv_unified


def limits(settings: Settings, *, on_gpu: bool) -> Limits:
    return Limits(
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=max_batch_tokens(settings, on_gpu=on_gpu),
        max_prompt_tokens=settings.prefill_chunk or (96 if on_gpu else 64),
        max_burst_tokens=MAX_BURST_ON_GPU if on_gpu else MAX_BURST_ON_CPU,
        max_idle=MAX_IDLE_ON_GPU if on_gpu else MAX_IDLE_ON_CPU,
    )


def draft_limits(settings: Settings, *, on_gpu: bool) -> DraftLimits:
    return DraftLimits(
        max_num_seqs=MAX_DRAFTING_ON_GPU if on_gpu else MAX_DRAFTING_ON_CPU,
        max_tokens=settings.num_draft_tokens,
        max_batch_tokens=min(settings.n_ubatch, max_batch_tokens(settings, on_gpu=on_gpu)),
    )


def max_batch_tokens(settings: Settings, *, on_gpu: bool) -> int:
    """Every running sequence gets its token and there is room for a prompt's."""
    return max(settings.n_batch or (1024 if on_gpu else 512), settings.max_num_seqs + 1)
