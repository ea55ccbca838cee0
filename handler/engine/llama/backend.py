"""llama.cpp in this process: its version, its log, and the devices it finds."""

import functools
import re
import threading
from importlib.util import find_spec
from pathlib import Path

import llama_cpp.llama_cpp as llama

from handler.engine.llama.callbacks import LogCallback
from handler.engine.llama.log import LlamaLog

llama_log = LlamaLog()
log_callback = LogCallback(llama_log)


_starting = threading.Lock()


def start_llama() -> None:
    """Find the devices; once a process, before anything else. Any thread: the others wait.

    Compiled for one machine, llama.cpp has its kernels built in. In an image there is a library of them for each kind
    of processor, beside llama.cpp's own: those that fit are loaded.
    """
    with _starting:
        _start_llama()


@functools.cache
def _start_llama() -> None:
    llama.llama_log_set(log_callback.function, None)
    if llama._lib.ggml_backend_reg_count() == 0:
        llama._lib.ggml_backend_load_all_from_path(str(llama._base_path).encode())
    llama.llama_backend_init()


def supports_gpu() -> bool:
    """Whether this build of llama.cpp can compute on a GPU of this machine."""
    start_llama()
    return bool(llama.llama_supports_gpu_offload())


@functools.cache
def llama_version() -> str:
    """Of llama-cpp-python, as its `__init__.py` says, which is not run for that; empty where it does not say."""
    spec = find_spec("llama_cpp")
    text = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    found = re.search(r"""^__version__ = ["'](.+)["']""", text, re.MULTILINE)
    return found[1] if found else ""
