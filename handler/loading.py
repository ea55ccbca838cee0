"""From settings to a loaded model: what is left open is chosen here, by the machine. Imports llama.cpp."""

import logging

from handler.cores import num_usable_cores
from handler.engine.llama_context import RunnerConfig, supports_gpu
from handler.engine.model_runner import ModelRunner
from handler.engine.scheduler import Limits
from handler.models.locate import locate
from handler.settings import Settings

log = logging.getLogger(__name__)

MAX_SAMPLER_THREADS = 12
MAX_SLOTS = 256  # llama.cpp's own limit on seq_ids
MAX_BURST_ON_GPU, MAX_BURST_ON_CPU = 8192, 2048  # prompt tokens: about a second, and some seconds
# What a cached token costs each token that others generate, and what it costs to compute anew: 20 ns and 80 us on an
# H100, 0.12 us and 8 ms on two CPU cores.
MAX_IDLE_ON_GPU, MAX_IDLE_ON_CPU = 4_000, 60_000


def load_model(settings: Settings) -> ModelRunner:
    """Find or download the model and load it. Blocks; raises ModelError or ConfigError."""
    path = locate(settings)
    runner = ModelRunner(path, runner_config(settings, on_gpu=supports_gpu()))
    log.info(
        "model loaded in %s: %d slots %s a cache of %d tokens, %d a sequence at most",
        runner.load_time, runner.num_slots, "share" if runner.memory.is_unified else "divide", runner.num_cells,
        runner.max_model_len,
    )  # fmt: skip
    return runner


def runner_config(settings: Settings, *, on_gpu: bool) -> RunnerConfig:
    num_cores = num_usable_cores()
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
        kv_unified=settings.kv_unified,
    )


def limits(settings: Settings, *, on_gpu: bool) -> Limits:
    return Limits(
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=max_batch_tokens(settings, on_gpu=on_gpu),
        max_prompt_tokens=settings.prefill_chunk or (128 if on_gpu else 64),
        max_burst_tokens=MAX_BURST_ON_GPU if on_gpu else MAX_BURST_ON_CPU,
        max_idle=MAX_IDLE_ON_GPU if on_gpu else MAX_IDLE_ON_CPU,
    )


def max_batch_tokens(settings: Settings, *, on_gpu: bool) -> int:
    """Every running sequence gets its token and there is room for a prompt's."""
    return max(settings.n_batch or (1024 if on_gpu else 256), settings.max_num_seqs + 1)
