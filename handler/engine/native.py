"""draw.c, as Python calls it. builder/native.sh compiles it."""

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.errors import DecodeError, ModelError

LIBRARY = Path(__file__).with_name("libdraw.so")
SAMPLERS = (llama._lib.llama_sampler_apply, llama._lib.llama_sampler_accept)


class DrawRequest(ctypes.Structure):
    """Its `struct request`: one sequence's chain and what it needs, and what it drew last."""

    chain: int | None  # llama.cpp's
    num: int
    also: int | None  # address of int64 numbers, which must live as long
    num_also: int
    row: int
    drawn: int

    _fields_ = (
        ("chain", ctypes.c_void_p),
        ("num", ctypes.c_int64),
        ("also", ctypes.c_void_p),
        ("num_also", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("drawn", ctypes.c_int64),
    )


class Drawing:
    """The library, and the samplers' functions for it to call. May be used by many threads at once."""

    def __init__(self, num_tokens: int, functions: tuple[Any, Any] = SAMPLERS) -> None:
        """`num_tokens`: of a row of logits. Raises ModelError where the library was not compiled."""
        if not LIBRARY.exists():
            raise ModelError(f"{LIBRARY.name} was not compiled: builder/native.sh does that.")
        self._draw: Any = ctypes.CDLL(str(LIBRARY)).draw
        self._draw.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        self._num_tokens = num_tokens
        self._samplers = (ctypes.c_void_p * 2)(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))

    def draw(self, addresses: list[int], logits: int) -> None:
        """Fill in `drawn` of the requests at these addresses, having given the GIL away, from rows of logits at that
        one. Raises DecodeError where there is no memory for it."""
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        if self._draw(pointers, len(addresses), logits, self._num_tokens, self._samplers):
            raise DecodeError("There is no memory to sample with.")
