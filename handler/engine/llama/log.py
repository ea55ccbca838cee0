"""llama.cpp's log, forwarded to `logging`. Knows nothing of llama.cpp but its levels."""

import logging
from collections import deque

from handler.engine.llama.file_check import reason_in

log = logging.getLogger("llama.cpp")

# llama.cpp's INFO is for its developers: thousands of lines while a model loads.
LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
CONTINUATION = 5
MAX_ERRORS = 20


class LlamaLog:
    """llama.cpp's log callback: called with pieces of lines, by any thread. Keeps the latest errors, for the exception
    that follows."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=MAX_ERRORS)
        self._level = logging.DEBUG
        self._line = ""

    def __call__(self, level: int, text: bytes, _user_data: object) -> None:
        if level != CONTINUATION:
            self._level = LEVELS.get(level, logging.DEBUG)
        *lines, self._line = (self._line + text.decode("utf-8", "replace")).split("\n")
        for line in lines:
            self._write(line.strip())

    def _write(self, line: str) -> None:
        if self._level >= logging.ERROR and line:
            self.errors.append(line)
        if line:
            log.log(self._level, "%s", line)

    @property
    def last_error(self) -> str:
        return self.errors[-1] if self.errors else ""

    def reason(self) -> str:
        """What the latest errors say is wrong, in one line; they are forgotten."""
        lines = list(self.errors)
        self.errors.clear()
        return reason_in(lines) or "it does not say why"
