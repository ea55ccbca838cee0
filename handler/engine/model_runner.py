"""The model on its device: the one place, with sampler.py, that calls llama.cpp.

llama.cpp's low-level API through llama-cpp-python. Knows batches and slots; nothing about waiting, text and stopping.
Its calls release the GIL.
"""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.batch_buffer import BatchBuffer
from handler.engine.cache_size import GIB, MIN_CELLS, CacheSize, CacheWish, on_gpus, without_gpu
from handler.engine.llama_log import LlamaLog
from handler.engine.memory_facts import cache_shape, free_gpu_bytes
from handler.engine.sampler import Pointer, SamplerChain
from handler.engine.sampling import StepSampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import SampledToken
from handler.engine.step_times import StepTimes
from handler.engine.verification import verify
from handler.errors import CacheFullError, ConfigError, DecodeError, InvalidRequestError, ModelError
from handler.timing import Stopwatch

log = logging.getLogger(__name__)

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
    max_draft_tokens: int = 0  # of all sequences of a batch


@functools.cache
def _start_llama() -> None:
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
    _start_llama()
    return bool(llama.llama_supports_gpu_offload())


class ModelRunner:
    def __init__(self, path: Path, config: RunnerConfig) -> None:
        """Load the model and warm it up. Takes seconds to minutes; raises ModelError."""
        self.times = StepTimes()
        self.load_time = Stopwatch()
        _start_llama()
        self.load_time.lap("devices")
        self._model = _load_model(path, config)
        vocab = llama.llama_model_get_vocab(self._model)
        self.vocabulary = ModelVocabulary(vocab)
        self.n_ctx_train: int = llama.llama_model_n_ctx_train(self._model)
        self.load_time.lap("model")
        if config.max_model_len > self.n_ctx_train:
            raise ConfigError(
                f"MAX_MODEL_LEN has value {config.max_model_len}: this model was made for {self.n_ctx_train} at most."
            )
        self._context = _open_context(self._model, config, self.n_ctx_train)
        self.load_time.lap("context")
        self.memory = ModelMemory(self._model, self._context, swa_full=config.swa_full)
        self._is_on_gpu = config.n_gpu_layers != 0 and supports_gpu()
        self.num_slots = config.num_slots
        self.num_cells: int = llama.llama_n_ctx(self._context)
        self.max_model_len = config.max_model_len or min(self.num_cells, self.n_ctx_train)
        self._batch = BatchBuffer(config.n_batch)
        self._sampling = StepSampler(self._context, self.vocabulary, config.sampler_threads)
        self._warm_up()
        self.load_time.lap("warm-up")

    def tokenize(self, text: str) -> list[int]:
        return self.vocabulary.tokenize(text)

    def chat_template(self) -> str | None:
        """The template stored in the GGUF."""
        source = llama.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", "replace") if source else None

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> SamplerChain:
        if any(not 0 <= token_id < self.vocabulary.num_tokens for token_id, _ in params.logit_bias):
            raise InvalidRequestError("logit_bias names a token that is not in the vocabulary.", param="logit_bias")
        return SamplerChain(
            params,
            prompt_token_ids,
            vocab=self.vocabulary.vocab,
            vocabulary=self.vocabulary,
            max_tokens=self.max_model_len,
        )

    def run(self, batch: Batch, meanwhile: Callable[[], None] = lambda: None) -> list[list[SampledToken]]:
        """Compute a batch; for each item of `batch.sampling` as many tokens of its draft as were drawn, and one more.

        The rest of the draft is left in llama.cpp's memory. Raises CacheFullError or DecodeError.
        """
        rows = self._batch.fill(batch)
        self.times.lap("fill")
        if not self._is_on_gpu:
            meanwhile()
        self._decode()
        self.times.lap("decode")
        if self._is_on_gpu:  # which has only begun
            meanwhile()
        llama.llama_synchronize(self._context)
        self.times.lap("wait")
        sampled = self._sample(batch.sampling, rows)
        self.times.lap("sample")
        return sampled

    def close(self) -> None:
        self._sampling.close()
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def _sample(self, items: list[ScheduledSequence], rows: list[int]) -> list[list[SampledToken]]:
        """`rows`: of the batch, those that have logits. Each item has one, and one more for each token of its draft."""
        samplers: list[Any] = [item.sequence.sampler for item in items]

        def draw(numbers: list[int], outputs: list[int]) -> list[SampledToken]:
            chains = [samplers[number] for number in numbers]
            return self._sampling.sample(chains, [rows[output] for output in outputs], outputs)

        return verify([item.draft_token_ids for item in items], draw)

    def _decode(self) -> None:
        code = llama.llama_decode(self._context, self._batch.struct)
        if code == 1:
            raise CacheFullError("No place in the KV cache for this batch.")
        if code != 0:
            raise DecodeError(f"llama_decode returned {code}.")

    def _warm_up(self) -> None:
        """One token through the model, so that the first request does not wait for pages and kernels."""
        self._batch.fill_token(self.vocabulary.any_token)
        self._decode()
        llama.llama_synchronize(self._context)
        self.memory.clear(0)


class ModelMemory:
    """llama.cpp's memory of one context, which is unified: every slot draws on the same cells."""

    def __init__(self, model: Pointer, context: Pointer, *, swa_full: bool) -> None:
        self._memory = llama.llama_get_memory(context)
        self._has_states = bool(llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
        self._window: int = llama.llama_model_n_swa(model)  # 0: none
        self.can_go_back = not self._has_states  # by the few tokens that a draft had too many
        # A state is that of all its tokens. Cells of a small window's cache that two slots share are never freed.
        self.shares_prefixes = not self._has_states and (swa_full or not self._window)

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        if self._has_states:
            return bool(llama.llama_memory_seq_pos_max(self._memory, seq_id) + 1 == num_tokens)
        # Even a full window cache loses what its window has passed: llama.cpp writes new tokens over it at will.
        first = llama.llama_memory_seq_pos_min(self._memory, seq_id) if self._window else 0
        return bool(first <= max(0, num_tokens - self._window + 1))

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        llama.llama_memory_seq_cp(self._memory, source, target, 0, num_tokens)

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        return bool(llama.llama_memory_seq_rm(self._memory, seq_id, num_tokens, -1))

    def clear(self, seq_id: int) -> None:
        llama.llama_memory_seq_rm(self._memory, seq_id, -1, -1)


class ModelVocabulary:
    """Text to tokens and back. May be used by any thread."""

    def __init__(self, vocab: Pointer) -> None:
        self.vocab = vocab
        self.kind: int = llama.llama_vocab_type(vocab)  # SentencePiece, BPE, ...
        self.num_tokens: int = llama.llama_vocab_n_tokens(vocab)
        self.bos_token = self._special(llama.llama_vocab_bos(vocab))
        self.eos_token = self._special(llama.llama_vocab_eos(vocab))
        self.any_token: int = max(0, llama.llama_vocab_bos(vocab))
        self._adds_bos = bool(llama.llama_vocab_get_add_bos(vocab))
        self.piece = functools.cache(self._piece)  # there are as many at most as tokens
        self.is_end_of_generation = functools.cache(self._is_end_of_generation)

    def texts(self) -> list[bytes]:
        """Of all tokens, as the file has them: for comparing two vocabularies."""
        return [llama.llama_vocab_get_text(self.vocab, token_id) for token_id in range(self.num_tokens)]

    @functools.cached_property
    def end_of_generation(self) -> frozenset[int]:
        return frozenset(filter(self.is_end_of_generation, range(self.num_tokens)))

    def tokenize(self, text: str) -> list[int]:
        """With the model's own beginning, once: chat templates often write it themselves."""
        if self._adds_bos and self.bos_token:
            text = text.removeprefix(self.bos_token)
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8  # a token has a byte at least, but for those the model adds
        tokens = np.empty(capacity, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        num_tokens = llama.llama_tokenize(self.vocab, data, len(data), pointer, capacity, True, True)
        if num_tokens < 0:
            raise InvalidRequestError("The prompt cannot be tokenized.", param="prompt")
        return list(map(int, tokens[:num_tokens]))

    def _piece(self, token_id: int, special: bool = False) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_token_to_piece(self.vocab, token_id, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _is_end_of_generation(self, token_id: int) -> bool:
        return bool(llama.llama_vocab_is_eog(self.vocab, token_id))

    def _special(self, token_id: int) -> str:
        return self._piece(token_id, special=True).decode("utf-8", "replace") if token_id >= 0 else ""


def _load_model(path: Path, config: RunnerConfig) -> Pointer:
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
    wish = _wish(config)
    free = free_gpu_bytes() if config.n_gpu_layers < 0 else []  # else a part of the cache lies in main memory
    if config.split_mode == "none":
        free = free[config.main_gpu :][:1]
    size = on_gpus(wish, cache_shape(model), n_ctx_train, free) if free else without_gpu(wish, n_ctx_train)
    log.info("cache of %d tokens, %s/%s: %s", *size)
    return size


def _wish(config: RunnerConfig) -> CacheWish:
    return CacheWish(
        n_ctx=config.n_ctx,
        type_k=config.type_k,
        type_v=config.type_v,
        num_slots=config.num_slots,
        max_model_len=config.max_model_len,
        n_ubatch=config.n_ubatch,
        can_quantise=config.flash_attn != "off",
    )


def _open_context(model: Pointer, config: RunnerConfig, n_ctx_train: int) -> Pointer:
    """A size that was chosen and not set may be too large: the estimate does not know all models' needs."""
    size = choose_cache_size(model, config, n_ctx_train)
    while True:
        if context := llama.llama_init_from_model(model, _context_params(config, size)):
            return context
        refusal = (
            f"llama.cpp cannot make a cache of {size.n_ctx} tokens as {size.type_k}/{size.type_v} ({size.why}): "
            f"{_llama_log.last_error or 'it does not say why'}."
        )
        if config.n_ctx or size.n_ctx <= MIN_CELLS:
            llama.llama_model_free(model)
            raise ModelError(f"{refusal} Set a smaller N_CTX, or CACHE_TYPE_K and CACHE_TYPE_V.")
        log.warning("%s Half of it is tried.", refusal)
        size = size.half()


def _context_params(config: RunnerConfig, size: CacheSize) -> Any:
    params = llama.llama_context_default_params()
    params.n_ctx = size.n_ctx
    params.n_batch = config.n_batch
    params.n_ubatch = min(config.n_ubatch, config.n_batch)
    params.n_seq_max = config.num_slots
    params.n_outputs_max = config.num_slots + config.max_draft_tokens  # rows of logits: not one for each token
    params.n_threads = params.n_threads_batch = config.n_threads
    params.flash_attn_type = FLASH_ATTN[config.flash_attn]
    params.swa_full = config.swa_full
    params.type_k, params.type_v = KV_TYPES[size.type_k], KV_TYPES[size.type_v]
    params.kv_unified = True
    return params
