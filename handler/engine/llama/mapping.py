"""llama.cpp's library mapped into this process, ahead of its import and without the GIL."""

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

LIBRARY = "libllama.so"


def map_library(folder: str) -> None:
    """Map llama.cpp and what it is linked to. ctypes would hold the GIL for that time, which with CUDA is long.

    `folder` has the library; empty: llama_cpp's own. Where it cannot be mapped, the import of llama_cpp says why.
    """
    spec = find_spec("llama_cpp")
    packages = spec.submodule_search_locations if spec else None
    folders = [folder] if folder else [f"{package}/lib" for package in packages or ()]
    for path in (Path(each, LIBRARY) for each in folders):
        if path.exists():
            open_library = ctypes.CDLL(None).dlopen
            open_library.argtypes, open_library.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
            open_library(os.fsencode(path), os.RTLD_NOW | os.RTLD_LOCAL)  # stays open, as the import's will
