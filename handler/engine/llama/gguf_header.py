"""Single values of a GGUF file's header, by llama.cpp's own functions."""

import ctypes
from pathlib import Path

from handler.engine.llama.expanded_header import InitParams
from handler.engine.llama.ggml import function

STRING = 8  # gguf.h, GGUF_TYPE_STRING

_open = function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, InitParams)
_free = function("gguf_free", None, ctypes.c_void_p)
_find = function("gguf_find_key", ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p)
_type = function("gguf_get_kv_type", ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_text = function("gguf_get_val_str", ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)


def read_texts(path: Path, *keys: str) -> list[str]:
    """The values of these keys, of those that the file has as text. Empty for what is no GGUF file."""
    header = _open(str(path).encode(), InitParams(no_alloc=True))
    if not header:
        return []
    try:
        places = [_find(header, key.encode()) for key in keys]
        return [_text(header, place).decode() for place in places if place >= 0 and _type(header, place) == STRING]
    finally:
        _free(header)
