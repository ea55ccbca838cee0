"""A GGUF file's header as it would be if its quantised matrices were stored in 16 bits, and where each tensor lies.

llama.cpp's own functions read the one and write the other, so metadata stays as it is. The parts of a model that is
split over several files become one.
"""

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from handler.engine.llama.ggml import BF16, TensorType, function, tensor_type
from handler.errors import ModelError

# Read a row at a time and not multiplied with: larger rows would gain nothing. (Unless it is the output matrix too.)
LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight")
OUTPUT = "output.weight"
ALIGNMENT = 32  # bytes: GGUF's, where the metadata has no other
OF_ONE_FILE = (b"general.alignment", b"split.no", b"split.count", b"split.tensors.count")

_Pointer, _Name, _Id = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64


class InitParams(ctypes.Structure):
    """gguf.h's `struct gguf_init_params`."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


_open = function("gguf_init_from_file", _Pointer, _Name, InitParams)
_empty = function("gguf_init_empty", _Pointer)
_free = function("gguf_free", None, _Pointer)
_copy_metadata = function("gguf_set_kv", None, _Pointer, _Pointer)
_remove_key = function("gguf_remove_key", _Id, _Pointer, _Name)
_num_tensors = function("gguf_get_n_tensors", _Id, _Pointer)
_find_tensor = function("gguf_find_tensor", _Id, _Pointer, _Name)
_tensor_name = function("gguf_get_tensor_name", _Name, _Pointer, _Id)
_tensor_type = function("gguf_get_tensor_type", ctypes.c_int, _Pointer, _Id)
_tensor_offset = function("gguf_get_tensor_offset", ctypes.c_size_t, _Pointer, _Id)
_tensor_size = function("gguf_get_tensor_size", ctypes.c_size_t, _Pointer, _Id)
_data_offset = function("gguf_get_data_offset", ctypes.c_size_t, _Pointer)
_add_tensor = function("gguf_add_tensor", None, _Pointer, _Pointer)
_set_type = function("gguf_set_tensor_type", None, _Pointer, _Name, ctypes.c_int)
_meta_size = function("gguf_get_meta_size", ctypes.c_size_t, _Pointer)
_meta_data = function("gguf_get_meta_data", None, _Pointer, ctypes.c_void_p)
_ggml_tensor = function("ggml_get_tensor", _Pointer, _Pointer, _Name)
_ggml_free = function("ggml_free", None, _Pointer)


class TensorPlace(NamedTuple):
    """Where a tensor lies, in bytes: in the expanded file, and in one of the files on the disk."""

    begin: int
    end: int
    part: int  # index of the file
    offset: int
    num_bytes: int  # there
    type: TensorType | None  # that it is expanded from; None: its bytes are the same


class ExpandedHeader(NamedTuple):
    """Bytes up to the first tensor, and the tensors in their order."""

    data: bytes
    tensors: list[TensorPlace]

    @property
    def size(self) -> int:
        """Of the expanded file, in bytes: padded, as its data must be."""
        end = self.tensors[-1].end if self.tensors else len(self.data)
        return -(-end // ALIGNMENT) * ALIGNMENT


def expanded_header(paths: Sequence[Path]) -> ExpandedHeader:
    """Of a model in these files, in their order. Raises ModelError."""
    with ExitStack() as stack:
        result = _empty()
        stack.callback(_free, result)
        parts = [stack.enter_context(closing(_Part(path))) for path in paths]
        _copy_metadata(result, parts[0].gguf)
        for key in OF_ONE_FILE:
            _remove_key(result, key)
        is_tied = all(_find_tensor(part.gguf, OUTPUT.encode()) < 0 for part in parts)
        places = [place for index, part in enumerate(parts) for place in _add(result, index, part, is_tied=is_tied)]
        buffer = ctypes.create_string_buffer(_meta_size(result))
        _meta_data(result, buffer)
        start = len(buffer)
        return ExpandedHeader(buffer.raw, [_moved(place, start) for place in places])


class _Part:
    """An open file of llama.cpp's: its metadata and tensors, without their data."""

    def __init__(self, path: Path) -> None:
        context = ctypes.c_void_p()
        self.gguf = _open(str(path).encode(), InitParams(no_alloc=True, ctx=ctypes.pointer(context)))
        if not self.gguf:
            raise ModelError(f"llama.cpp cannot read the header of {path}.")
        self._context = context

    def tensor(self, name: bytes) -> int:
        """ggml's tensor."""
        return int(_ggml_tensor(self._context, name))

    def close(self) -> None:
        _free(self.gguf)
        _ggml_free(self._context)


def _add(result: int, index: int, part: _Part, *, is_tied: bool) -> list[TensorPlace]:
    """Add a file's tensors to the header; their places count from the first tensor of all."""
    data_offset, places = _data_offset(part.gguf), []
    for number in range(_num_tensors(part.gguf)):
        name = _tensor_name(part.gguf, number)
        if _find_tensor(result, name) >= 0:
            raise ModelError(f"the model has two tensors of the name {name.decode()}.")
        _add_tensor(result, part.tensor(name))
        kind: TensorType | None = tensor_type(_tensor_type(part.gguf, number))
        if kind is not None and _is_expanded(name.decode(), kind, is_tied=is_tied):
            _set_type(result, name, BF16)
        else:
            kind = None
        added = _num_tensors(result) - 1
        begin, size = _tensor_offset(result, added), _tensor_size(part.gguf, number)
        end = begin + _tensor_size(result, added)
        places.append(TensorPlace(begin, end, index, data_offset + _tensor_offset(part.gguf, number), size, kind))
    return places


def _is_expanded(name: str, kind: TensorType, *, is_tied: bool) -> bool:
    is_multiplied = name not in LOOKED_UP or (is_tied and name == LOOKED_UP[0])
    return kind.is_quantised and is_multiplied


def _moved(place: TensorPlace, start: int) -> TensorPlace:
    return place._replace(begin=place.begin + start, end=place.end + start)
