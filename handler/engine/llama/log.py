"""llama.cpp's log, forwarded to `logging`. Knows nothing of llama.cpp but its levels."""

import logging

log = logging.getLogger("llama.cpp")

# llama.cpp's INFO is for its developers: thousands of lines while a model loads.
LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
CONTINUATION = 5


class LlamaLog:
    """llama.cpp's log callback: called with pieces of lines, by any thread. Keeps the last error, for the exception
    that follows."""

    def __init__(self) -> None:
        self.last_error = ""
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
            self.last_error = line
        if line:
            log.log(self._level, "%s", line)
