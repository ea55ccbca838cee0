"""The functions of callbacks.c, which builder/native.sh compiles; without them every callback comes to Python."""

import ctypes
import logging
from collections.abc import Callable

import llama_cpp.llama_cpp as llama

from handler.engine.llama.log import LlamaLog, log
from handler.engine.llama.native import native

WARNING = 3  # llama.cpp's log level
ALL = 0
PAUSE = 0.2  # seconds between two reports: a bar's pace


class LogCallback:
    """llama.cpp's log, passed on to a `LlamaLog`. llama.cpp keeps no reference: this one must live as long."""

    def __init__(self, target: LlamaLog) -> None:
        self._python = llama.llama_log_callback(target)
        self.function = self._python
        if native:
            self.function = ctypes.cast(native.log_filtered, llama.llama_log_callback)
            self.adjust()

    def adjust(self) -> None:
        """From now on only what the log's level, as it is now, and the reasons of errors need."""
        if native:
            least = ALL if log.isEnabledFor(logging.DEBUG) else WARNING
            native.log_pass_on(self._python, least)


class _Progress(ctypes.Structure):
    """callbacks.c's `struct progress`."""

    _fields_ = (
        ("target", llama.llama_progress_callback),
        ("pause", ctypes.c_double),
        ("told", ctypes.c_double),
    )


class ProgressCallback:
    """One load's progress as llama.cpp reports it, for each tensor, passed on with pauses of so many seconds at least.
    Must live as long as the load."""

    def __init__(self, report: Callable[[float], None], pause: float = PAUSE) -> None:
        def go_on(share: float, _user_data: object) -> bool:
            report(share)
            return True

        self.function = llama.llama_progress_callback(go_on)
        self.data: int | None = None
        if native:
            self._progress = _Progress(self.function, pause, 0.0)
            self.function = ctypes.cast(native.progress_with_pauses, llama.llama_progress_callback)
            self.data = ctypes.addressof(self._progress)
