"""A model of llama.cpp, loaded from a file."""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.cache.cache_size import GIB
from handler.engine.llama.backend import llama_log, log_callback, start_llama
from handler.engine.llama.c_stream import ByteSource, CStream
from handler.engine.llama.callbacks import ProgressCallback
from handler.engine.llama.memory_info import cache_shape, free_gpu_bytes, metadata
from handler.engine.model_facts import ModelFacts, Offload, Pooling
from handler.errors import ModelError

Pointer = Any  # llama.cpp's own, opaque to us

SPLIT_MODES = {
    "none": llama.LLAMA_SPLIT_MODE_NONE,
    "layer": llama.LLAMA_SPLIT_MODE_LAYER,
    "row": llama.LLAMA_SPLIT_MODE_ROW,
    "tensor": llama.LLAMA_SPLIT_MODE_TENSOR,
}

# Without a cache, whatever `attention.causal` says.
ENCODERS = (
    *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert"),
    "gemma-embedding",
)
POOLINGS: dict[str, Pooling] = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}  # in files; 0 is none

BYTES_16BIT = 2  # of a weight
MIN_BYTES_16BIT = 1.9  # of a weight, on average: an embedding may be smaller


class LlamaModel:
    """Owns llama.cpp's model: weights, vocabulary and metadata, without a context. `close` once no context is left."""

    def __init__(
        self,
        path: Path,
        offload: Offload,
        report: Callable[[float], None] | None = None,
        *,
        source: ByteSource | None = None,
    ) -> None:
        """Load it. Takes seconds to minutes, without the GIL; raises ModelError.

        `report` is told how much is loaded, from 0 to 1, in this thread; what it raises ends the load. `source` has
        the bytes to be read instead of the file's; it remains the caller's.
        """
        start_llama()
        self.pointer: Pointer = _load(path, offload, report, source)
        self.adapters: dict[str, Pointer] = {}  # by name
        self.architecture = metadata(self.pointer, "general.architecture")
        num_weights: int = llama.llama_model_n_params(self.pointer)
        self.is_16bit = llama.llama_model_size(self.pointer) >= MIN_BYTES_16BIT * num_weights
        # The kernels of experts gain nothing from 16 bits: a part's tokens are spread over many small products.
        has_experts = self._metadata("expert_count") not in ("", "0")
        self.facts = ModelFacts(
            n_ctx_train=llama.llama_model_n_ctx_train(self.pointer),
            window=llama.llama_model_n_swa(self.pointer),
            has_states=bool(llama.llama_model_is_recurrent(self.pointer) or llama.llama_model_is_hybrid(self.pointer)),
            cache_shape=cache_shape(self.pointer),
            is_causal=self.architecture not in ENCODERS and self._metadata("attention.causal") != "false",
            pooling=POOLINGS.get(self._metadata("pooling_type")),
            expanded_bytes=0 if self.is_16bit or has_experts else BYTES_16BIT * num_weights,
        )
        if self.facts.n_ctx_train <= 0:
            self.close()
            raise ModelError(f"{path} is damaged: it says that the model's context has no tokens.")

    def load_adapters(self, paths: Mapping[str, Path]) -> None:
        """Load LoRA adapters, by name, before the model has a context. They are freed with it.

        Raises ModelError. Activated ones (aLoRA) are refused: they change the model from certain tokens of a prompt on,
        and what is cached of it says nothing of where these were.
        """
        for name, path in paths.items():
            llama_log.errors.clear()
            adapter = llama.llama_adapter_lora_init(self.pointer, str(path).encode())
            if not adapter:
                raise ModelError(f"llama.cpp cannot load adapter {name!r} from {path}: {llama_log.reason()}")
            if llama.llama_adapter_get_alora_n_invocation_tokens(adapter):
                raise ModelError(f"Adapter {name!r}, {path}, is an activated one (aLoRA): this worker cannot apply it.")
            self.adapters[name] = adapter

    def chat_template(self, name: str | None = None) -> str | None:
        """The template stored in the GGUF, or one of those that it has beside it, by name."""
        source = llama.llama_model_chat_template(self.pointer, name.encode() if name else None)
        if (
            not source or b"{" not in source
        ):  # of some files without one llama.cpp tells the name of a format of its own
            return None
        return str(source.decode("utf-8", "replace"))

    def _metadata(self, name: str) -> str:
        """A value of the architecture's own; empty where the file has none."""
        return metadata(self.pointer, f"{self.architecture}.{name}")

    def close(self) -> None:
        llama.llama_model_free(self.pointer)


def _load(path: Path, offload: Offload, report: Callable[[float], None] | None, source: ByteSource | None) -> Pointer:
    params = llama.llama_model_default_params()
    progress = ProgressCallback(report or (lambda _: None))
    params.progress_callback, params.progress_callback_user_data = progress.function, progress.data
    params.n_gpu_layers = offload.n_gpu_layers
    params.split_mode = SPLIT_MODES[offload.split_mode]
    params.main_gpu = offload.main_gpu
    if offload.tensor_split:
        shares = offload.tensor_split + (0.0,) * (llama.llama_max_devices() - len(offload.tensor_split))
        params.tensor_split = (ctypes.c_float * len(shares))(*shares)  # which params keep alive
    free = free_gpu_bytes()
    log_callback.adjust()
    llama_log.errors.clear()
    if source:
        model = _load_stream(path, source, params)
    else:
        model = llama.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        size = source.size if source else path.stat().st_size if path.exists() else 0
        raise ModelError(f"llama.cpp cannot load {path}: {llama_log.reason()}{_lack_of_room(size, free)}")
    return model


def _load_stream(path: Path, source: ByteSource, params: Any) -> Pointer:
    """What llama.cpp maps into memory it cannot get from a stream."""
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    params.lazy_mode = llama.LLAMA_LAZY_MODE_OFF
    stream = CStream(source)
    try:
        model = llama.llama_model_load_from_file_ptr(stream.pointer, params)
    finally:
        stream.close()
    if stream.error:
        raise ModelError(f"{path} cannot be read: {stream.error}.") from stream.error
    return model


def _lack_of_room(size: int, free: list[int]) -> str:
    """The most likely reason where the GPUs are smaller than what is loaded; else empty."""
    if not free or size < sum(free):
        return ""
    return (
        f" (the weights have {size / GIB:.1f} GiB, and {sum(free) / GIB:.1f} GiB are free on the GPU: "
        "choose a smaller quantisation, a larger GPU, or fewer N_GPU_LAYERS)"
    )
