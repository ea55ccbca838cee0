"""ggml's types of tensors, and its own routines between them: what each GGUF tensor is stored as, through ctypes.

The routines are those that llama.cpp itself computes with on a CPU, so a weight that is expanded here is the weight
that its kernels see.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import llama_cpp.llama_cpp as llama

BF16 = 30  # ggml.h, GGML_TYPE_BF16
BF16_BYTES = 2

Address = int


class _Traits(ctypes.Structure):
    """The beginning of ggml.h's `struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
    )


class TensorType(NamedTuple):
    """How weights of one type are stored: in blocks."""

    name: str
    block_weights: int
    block_bytes: int
    is_quantised: bool
    to_float: Callable[[Address, Address, int], None]  # from blocks, to float32, so many weights; without the GIL


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of llama.cpp's libraries that llama-cpp-python has no binding for; it is called without the GIL."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, llama._lib))


_traits = function("ggml_get_type_traits", ctypes.POINTER(_Traits), ctypes.c_int)
_to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

# From float32, to BF16, so many weights: rounded to the nearest, ties to even.
to_bf16: Callable[[Address, Address, int], None] = function(
    "ggml_fp32_to_bf16_row", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
)


def tensor_type(number: int) -> TensorType:
    """By ggml's number, which must be one of this llama.cpp's."""
    traits = _traits(number).contents
    return TensorType(
        traits.type_name.decode(),
        traits.blck_size,
        traits.type_size,
        traits.is_quantized,
        _to_float(traits.to_float or 0),  # every quantised type has one
    )
