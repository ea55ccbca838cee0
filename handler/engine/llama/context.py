"""A context of llama.cpp, opened as planned."""

import logging
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.cache.cache_size import MIN_CELLS, CacheSize
from handler.engine.llama.backend import llama_log
from handler.engine.llama.model import LlamaModel, Pointer
from handler.engine.plan import ContextParams, EnginePlan
from handler.errors import ModelError

log = logging.getLogger(__name__)

FLASH_ATTN = {
    "auto": llama.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama.LLAMA_FLASH_ATTN_TYPE_DISABLED,
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


def open_context(model: LlamaModel, plan: EnginePlan) -> tuple[Pointer, CacheSize]:
    """The context and the cache it got: a size that was chosen and not set is halved until llama.cpp has room, because
    the estimate does not know every model's needs. Raises ModelError."""
    size = plan.cache
    log.info("cache of %d tokens, %s/%s: %s", *size[:4])
    while True:
        if context := llama.llama_init_from_model(model.pointer, native_params(plan.context, size)):
            return context, size
        refusal = (
            f"llama.cpp cannot make a cache of {size.n_ctx} tokens as {size.type_k}/{size.type_v} ({size.why}): "
            f"{llama_log.last_error or 'it does not say why'}."
        )
        if not plan.can_shrink or size.n_ctx <= MIN_CELLS:
            raise ModelError(f"{refusal} Set a smaller N_CTX, or CACHE_TYPE_K and CACHE_TYPE_V.")
        log.warning("%s Half of it is tried.", refusal)
        size = size.half(plan.num_slots)


def native_params(params: ContextParams, size: CacheSize) -> Any:
    """llama.cpp's struct of a context's parameters."""
    native = llama.llama_context_default_params()
    native.n_ctx = size.n_ctx
    native.n_batch = params.n_batch if size.is_unified else params.n_batch + size.num_slots  # padding comes on top
    native.n_ubatch = params.n_ubatch
    native.n_seq_max = size.num_slots
    # A row of logits for each sequence and what is drafted or scored, not for each token.
    native.n_outputs_max = size.num_slots + params.max_draft_tokens + params.max_scored_tokens
    native.n_threads = native.n_threads_batch = params.n_threads
    native.flash_attn_type = FLASH_ATTN[params.flash_attn]
    native.swa_full = params.swa_full
    native.type_k, native.type_v = KV_TYPES[size.type_k], KV_TYPES[size.type_v]
    native.kv_unified = size.is_unified
    return native
