"""From a file to a model and a context of llama.cpp: the cache's size is decided here, with what the GPUs have free."""

import ctypes
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.cache.cache_size import GIB, MIN_CELLS, CacheRequest, CacheSize, Layout, on_gpus, without_gpu
from handler.engine.llama.log import LlamaLog
from handler.engine.llama.memory_info import cache_shape, free_gpu_bytes
from handler.errors import ModelError

log = logging.getLogger(__name__)

Pointer = Any  # llama.cpp's own, opaque to us

FLASH_ATTN = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
SPLIT_MODES = {
    "none": llama.LLAMA_SPLIT_MODE_NONE,
    "layer": llama.LLAMA_SPLIT_MODE_LAYER,
    "row": llama.LLAMA_SPLIT_MODE_ROW,
    "tensor": llama.LLAMA_SPLIT_MODE_TENSOR,
}
KV_TYPES = {
    "f32": llama.GGML_TYPE_F32,
    "f16": llama.GGML_TYPE_F16,
    "q8_0": llama.GGML_TYPE_Q8_0,
    "q5_1": llama.GGML_TYPE_Q5_1,
    "q5_0": llama.GGML_TYPE_Q5_0,
    "q4_1": llama.GGML_TYPE_Q4_1,
    "q4_0": llama.GGML_TYPE_Q4_0,
}

_llama_log = LlamaLog()
_log_callback = llama.llama_log_callback(_llama_log)  # llama.cpp keeps no reference: this one must live


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """llama.cpp's own parameters, under its names, and the number of slots and sampling threads."""

    n_ctx: int  # cells of the KV cache; 0: chosen in cache_size.py
    n_batch: int
    n_ubatch: int
    n_gpu_layers: int
    n_threads: int
    flash_attn: str
    swa_full: bool
    num_slots: int
    sampler_threads: int
    max_model_len: int = 0  # tokens of one sequence; 0: as many as model and cache allow
    type_k: str = "auto"  # f16, quantised where that does not fit
    type_v: str = "auto"
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()  # proportions of the GPUs; empty: by their free memory
    max_num_seqs: int = 0  # of the slots, that run at the same time; 0: all
    kv_unified: Layout = "on"
    max_draft_tokens: int = 0  # of all sequences of a batch


@functools.cache
def start_llama() -> None:
    """Once a process, before anything else: it finds the devices, and says so in its log.

    Compiled for one machine, llama.cpp has its kernels built in. In an image there is a library of them for each kind
    of processor, beside llama.cpp's own: those that fit are loaded.
    """
    llama.llama_log_set(_log_callback, None)
    if llama._lib.ggml_backend_reg_count() == 0:
        llama._lib.ggml_backend_load_all_from_path(str(llama._base_path).encode())
    llama.llama_backend_init()


def supports_gpu() -> bool:
    """Whether this build of llama.cpp can compute on a GPU of this machine."""
    start_llama()
    return bool(llama.llama_supports_gpu_offload())


def has_states(model: Pointer) -> bool:
    """Whether the memory of some layers is one state of all tokens."""
    return bool(llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))


def load_model(path: Path, config: RunnerConfig) -> Pointer:
    params = llama.llama_model_default_params()
    params.n_gpu_layers = config.n_gpu_layers
    params.split_mode = SPLIT_MODES[config.split_mode]
    params.main_gpu = config.main_gpu
    if config.tensor_split:
        shares = config.tensor_split + (0.0,) * (llama.llama_max_devices() - len(config.tensor_split))
        params.tensor_split = (ctypes.c_float * len(shares))(*shares)  # which params keep alive
    free = free_gpu_bytes()
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelError(
            f"llama.cpp cannot load {path}: {_llama_log.last_error or 'it does not say why'}" + _room(path, free)
        )
    return model


def _room(path: Path, free: list[int]) -> str:
    """Where the GPUs are smaller than the file, that is most likely why."""
    size = path.stat().st_size if path.exists() else 0
    if not free or size < sum(free):
        return ""
    return (
        f" (the file has {size / GIB:.1f} GiB, and {sum(free) / GIB:.1f} GiB are free on the GPU: "
        "choose a smaller quantisation, a larger GPU, or fewer N_GPU_LAYERS)"
    )


def choose_cache_size(model: Pointer, config: RunnerConfig, n_ctx_train: int) -> CacheSize:
    wish = _wish(model, config)
    free = free_gpu_bytes() if config.n_gpu_layers < 0 else []  # else a part of the cache lies in main memory
    if config.split_mode == "none":
        free = free[config.main_gpu :][:1]
    size = on_gpus(wish, cache_shape(model), n_ctx_train, free) if free else without_gpu(wish, n_ctx_train)
    log.info("cache of %d tokens, %s/%s: %s", *size[:4])
    return size


def _wish(model: Pointer, config: RunnerConfig) -> CacheRequest:
    return CacheRequest(
        n_ctx=config.n_ctx,
        type_k=config.type_k,
        type_v=config.type_v,
        num_slots=config.num_slots,
        max_model_len=config.max_model_len,
        n_ubatch=_n_ubatch(model, config),
        can_quantise=config.flash_attn != "off",
        max_num_seqs=config.max_num_seqs or config.num_slots,
        kv_unified=config.kv_unified,
        can_stream=not has_states(model) and not llama.llama_model_n_swa(model),
    )


def open_context(model: Pointer, config: RunnerConfig, n_ctx_train: int) -> tuple[Pointer, CacheSize]:
    """A size that was chosen and not set may be too large: the estimate does not know all models' needs."""
    size = choose_cache_size(model, config, n_ctx_train)
    while True:
        if context := llama.llama_init_from_model(model, _context_params(model, config, size)):
            return context, size
        refusal = (
            f"llama.cpp cannot make a cache of {size.n_ctx} tokens as {size.type_k}/{size.type_v} ({size.why}): "
            f"{_llama_log.last_error or 'it does not say why'}."
        )
        if config.n_ctx or config.kv_unified == "off" or size.n_ctx <= MIN_CELLS:
            llama.llama_model_free(model)
            raise ModelError(f"{refusal} Set a smaller N_CTX, or CACHE_TYPE_K and CACHE_TYPE_V.")
        log.warning("%s Half of it is tried.", refusal)
        size = size.half(config.num_slots)


def _n_ubatch(model: Pointer, config: RunnerConfig) -> int:
    """With a sliding window a batch is computed in one part: of several, llama.cpp loses cells that an earlier one
    still needs, and gives wrong text."""
    return config.n_batch if llama.llama_model_n_swa(model) else min(config.n_ubatch, config.n_batch)


def _context_params(model: Pointer, config: RunnerConfig, size: CacheSize) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = size.n_ctx
    params.n_batch = config.n_batch if size.is_unified else config.n_batch + size.num_slots  # pads come on top
    params.n_ubatch = _n_ubatch(model, config)
    params.n_seq_max = size.num_slots
    params.n_outputs_max = size.num_slots + config.max_draft_tokens  # one row of logits a sequence, not one a token
    params.n_threads = params.n_threads_batch = config.n_threads
    params.flash_attn_type = FLASH_ATTN[config.flash_attn]
    params.swa_full = config.swa_full
    params.type_k, params.type_v = KV_TYPES[size.type_k], KV_TYPES[size.type_v]
    params.kv_unified = size.is_unified
    return params
