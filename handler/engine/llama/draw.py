"""The functions of draw.c, which builder/native.sh compiles."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as llama

from handler.engine.llama.native import require_native
from handler.errors import ModelError

SAMPLERS = (llama._lib.llama_sampler_apply, llama._lib.llama_sampler_accept)


class DrawRequest(ctypes.Structure):
    """draw.c's `struct request`: a sequence's chain, the row and candidates to draw from, and the token drawn."""

    chain: int | None  # llama.cpp's
    num: int  # the highest logits to offer
    also: int | None  # address of int64 token ids to offer too, which must live as long
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


class DrawPool:
    """Threads that share the rows of a step, and llama.cpp's functions for them to call. Used by one thread at a
    time."""

    def __init__(self, num_tokens: int, num_threads: int, functions: tuple[Any, Any] = SAMPLERS) -> None:
        """`num_tokens`: of a row of logits; `num_threads`: the calling one included. Raises ModelError where the
        library was not compiled."""
        self._library: Any = require_native()
        self._library.crew_start.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._library.crew_start.restype = ctypes.c_void_p
        self._library.crew_draw.argtypes = (
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p),
        )
        self._library.crew_stop.argtypes = (ctypes.c_void_p,)
        self._samplers = (ctypes.c_void_p * 2)(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
        self._crew = self._library.crew_start(num_tokens, num_threads - 1)  # the caller draws too
        if self._crew is None:
            raise ModelError("There is no memory to sample with.")

    def draw(self, addresses: list[int], logits: int) -> None:
        """Fill in `drawn` of the requests at these addresses, without the GIL.

        `logits`: the address of float32 rows, C-contiguous, (num_rows, num_tokens). There is one request at least.
        """
        requests = (ctypes.c_void_p * len(addresses))(*addresses)
        self._library.crew_draw(self._crew, requests, len(addresses), logits, self._samplers)

    def close(self) -> None:
        self._library.crew_stop(self._crew)
