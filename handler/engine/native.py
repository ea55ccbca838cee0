"""draw.c, as Python calls it. builder/native.sh compiles it."""

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt

from handler.errors import DecodeError, ModelError

LIBRARY = Path(__file__).with_name("libdraw.so")
REQUEST = np.dtype(  # its struct request
    [
        ("logits", np.uintp),
        ("chain", np.uintp),
        ("num", np.int64),
        ("also", np.uintp),
        ("num_also", np.int64),
        ("drawn", np.int64),
    ]
)

Requests = npt.NDArray[np.void]


SAMPLERS = (llama._lib.llama_sampler_apply, llama._lib.llama_sampler_accept)


class Drawing:
    """The library, and the samplers' functions for it to call. May be used by many threads at once."""

    def __init__(self, num_tokens: int, functions: tuple[Any, Any] = SAMPLERS) -> None:
        """`num_tokens`: of a row of logits. Raises ModelError where the library was not compiled."""
        if not LIBRARY.exists():
            raise ModelError(f"{LIBRARY.name} was not compiled: builder/native.sh does that.")
        self._draw: Any = ctypes.CDLL(str(LIBRARY)).draw
        self._draw.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
        self._num_tokens = num_tokens
        self._samplers = (ctypes.c_void_p * 2)(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))

    def draw(self, requests: Requests) -> None:
        """Fill in `drawn`, having given the GIL away. A chain is in one request only. Raises DecodeError."""
        if self._draw(requests.ctypes.data, len(requests), self._num_tokens, self._samplers):
            raise DecodeError("There is no memory to sample with.")
        if (requests["drawn"] < 0).any():
            raise DecodeError("A sampler chain chose no token.")
