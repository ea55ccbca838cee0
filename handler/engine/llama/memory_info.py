"""What llama.cpp knows of memory: how much is free on its GPUs, and how much a token takes in a model's cache."""

import ctypes
import math
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.cache.cache_size import CacheShape

GPU = 1  # of ggml's kinds of devices


def free_gpu_bytes() -> list[int]:
    """Free bytes of each GPU; empty without one. `start_llama` was called before."""
    lib: Any = llama._lib
    get = lib.ggml_backend_dev_get
    get.argtypes, get.restype = [ctypes.c_size_t], ctypes.c_void_p
    memory, kind = lib.ggml_backend_dev_memory, lib.ggml_backend_dev_type
    memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    memory.restype = None
    kind.argtypes, kind.restype = [ctypes.c_void_p], ctypes.c_int
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    devices = [get(index) for index in range(lib.ggml_backend_dev_count())]
    return [_free_bytes(memory, device) for device in devices if kind(device) == GPU]


def _free_bytes(memory: Any, device: int) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory(device, ctypes.byref(free), ctypes.byref(total))
    return free.value


def cache_shape(model: Any) -> CacheShape:
    """Of a loaded model, as if every layer had a cache: too much for recurrent layers, which have none."""
    architecture = metadata(model, "general.architecture")
    num_heads = llama.llama_model_n_head_kv(model)
    width = llama.llama_model_n_embd(model) // max(1, llama.llama_model_n_head(model))
    lengths = (metadata(model, f"{architecture}.attention.{name}_length") for name in ("key", "value"))
    key, value = (int(length) if length else width for length in lengths)
    return CacheShape(llama.llama_model_n_layer(model), num_heads * key, num_heads * value, math.gcd(key, value))


def metadata(model: Any, key: str) -> str:
    """A value of the file's header as text; empty where there is none."""
    buffer = ctypes.create_string_buffer(64)
    length = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode() if length >= 0 else ""
