"""Main memory that a GPU reaches fast, for keys and values on their way from one context to another."""

import ctypes
import weakref
from collections import deque
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

MIN_BYTES = 1 << 20
MAX_FREE = 16  # buffers kept for later
GPU = 1  # GGML_BACKEND_DEVICE_TYPE_GPU

_ggml: Any = llama._lib  # it depends on ggml's libraries, so their functions are found in it
_ggml.ggml_backend_dev_by_type.argtypes = (ctypes.c_int,)
_ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
_ggml.ggml_backend_dev_host_buffer_type.argtypes = (ctypes.c_void_p,)
_ggml.ggml_backend_dev_host_buffer_type.restype = ctypes.c_void_p
_ggml.ggml_backend_buft_alloc_buffer.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_ggml.ggml_backend_buft_alloc_buffer.restype = ctypes.c_void_p
_ggml.ggml_backend_buffer_get_base.argtypes = (ctypes.c_void_p,)
_ggml.ggml_backend_buffer_get_base.restype = ctypes.c_void_p
_ggml.ggml_backend_buffer_free.argtypes = (ctypes.c_void_p,)
_ggml.ggml_backend_buffer_free.restype = None


class HostState:
    """Bytes in a buffer that goes back to its pool when nothing refers to this any more."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self.data = data  # shape (num_bytes,)


class HostBuffers:
    """A pool of buffers. Pinned where there is a GPU (copies at the bus's full speed, and no pages to be touched
    first), else NumPy's. Any thread."""

    def __init__(self) -> None:
        device = _ggml.ggml_backend_dev_by_type(GPU)
        self._type = _ggml.ggml_backend_dev_host_buffer_type(device) if device else None
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=MAX_FREE)

    def take(self, num_bytes: int) -> HostState:
        """Room for so many bytes, of any content."""
        buffer = self._find(num_bytes)
        if buffer is None:
            buffer = self._allocate(max(MIN_BYTES, 1 << (num_bytes - 1).bit_length()))
        state = HostState(buffer[:num_bytes])
        weakref.finalize(state, self._free.append, buffer).atexit = False
        return state

    def _find(self, num_bytes: int) -> npt.NDArray[np.uint8] | None:
        for _ in range(len(self._free)):
            try:
                buffer = self._free.popleft()
            except IndexError:
                return None
            if buffer.size >= num_bytes:
                return buffer
            self._free.append(buffer)
        return None

    def _allocate(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        native = _ggml.ggml_backend_buft_alloc_buffer(self._type, num_bytes) if self._type else None
        if not native:
            return np.empty(num_bytes, np.uint8)
        base = _ggml.ggml_backend_buffer_get_base(native)
        memory = (ctypes.c_uint8 * num_bytes).from_address(base)
        buffer = np.ctypeslib.as_array(memory)
        weakref.finalize(memory, _ggml.ggml_backend_buffer_free, native).atexit = False  # as long as a view lives
        return buffer
