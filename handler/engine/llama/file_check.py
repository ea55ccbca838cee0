"""Whether llama.cpp can read a model file, tried out in a child process: for some damaged files it ends the process.

The child loads the file without its weights and without a GPU, and says why that fails, in llama.cpp's words.

This file is also the child's program: `file_check.py PATH`.
"""

import ctypes
import importlib.util
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

log = logging.getLogger(__name__)

MAX_SECONDS = 120  # for the metadata of a large model on a slow volume
MAX_REASON_CHARS = 300
ERROR = 4  # llama.cpp's log level
CONTINUATION = 5
WORDS = (
    re.compile(r"error loading model: (.*)"),
    re.compile(r"(GGML_ASSERT\(.*\) failed)"),
    re.compile(r"^(?:\w+: )?(.+)"),
)  # where the reason is, the best place first


class FileCheck:
    """One child process, started by the constructor, so that it works while this process does something else."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where no process can be started."""
        quiet = ["/usr/bin/env", "GGML_NO_BACKTRACE=1", "CUDA_VISIBLE_DEVICES="]
        command = [*quiet, sys.executable, "-P", str(Path(__file__)), str(path)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603  # ours

    def reason(self) -> str:
        """Wait for the child; why the file cannot be loaded, in one line, empty if it can."""
        _, errors = self._process.communicate()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            log.warning("The process that tries the model file was killed; the file is loaded untried.")
        if code in (0, -signal.SIGKILL):
            return ""
        if code == -signal.SIGALRM:
            return f"its metadata could not be read in {MAX_SECONDS} seconds"
        return reason_in(errors.decode("utf-8", "replace").splitlines()) or f"llama.cpp ended with code {code}"


def reason_in(errors: Iterable[str]) -> str:
    """Of llama.cpp's errors what says the reason: the last line mostly just says that there is one."""
    lines = list(filter(None, map(str.strip, errors)))
    found = (match[1] for words in WORDS for line in lines if (match := words.search(line)))
    return " ".join(next(found, "").split())[:MAX_REASON_CHARS]


def main() -> None:
    _leave_out_init("llama_cpp")
    import llama_cpp.llama_cpp as llama  # noqa: PLC0415  # only in this process

    is_error = False

    def write_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        nonlocal is_error
        is_error = is_error if level == CONTINUATION else level >= ERROR
        if is_error:
            sys.stderr.write(text.decode("utf-8", "replace"))

    callback = llama.llama_log_callback(write_errors)
    llama.llama_log_set(callback, None)
    signal.alarm(MAX_SECONDS)
    if llama._lib.ggml_backend_reg_count() == 0:  # an image's kernels are libraries of their own
        llama._lib.ggml_backend_load_all_from_path(str(llama._base_path).encode())
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    params.no_alloc = True  # tensors are created, no weights are read
    model = llama.llama_model_load_from_file(sys.argv[1].encode(), params)
    sys.stderr.flush()
    sys.exit(0 if model else 1)


def _leave_out_init(name: str) -> None:
    """Of a package whose bindings alone are used here: the rest takes as long to import as the check. This process does
    not see the worker's own `defer`."""
    spec = importlib.util.find_spec(name)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    sys.modules[name] = package


if __name__ == "__main__":
    main()
