"""Where a JSON value ends, piece by piece. Completes nothing, repairs nothing, and takes what is nearly JSON."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,}\]<]")


class JsonScan:
    """One value. Brackets are counted, not matched; those in strings are text.

    `depth` says how many brackets are open already: then it is the end of the outermost that is looked for.
    """

    def __init__(self, depth: int = 0) -> None:
        self.is_done = False
        self._depth = depth
        self._in_string = False
        self._is_escaped = False  # the next character belongs to a backslash
        self._is_scalar = False
        self._has_begun = depth > 0

    def feed(self, text: str) -> int:
        """How many characters of this piece belong to the value: all of them until it is done."""
        at = 0
        while at < len(text) and not self.is_done:
            at = self._step(text, at)
        return at

    def finish(self) -> bool:
        """Whether the value is whole, now that no more text comes: a number ends where the text ends."""
        self.is_done = self.is_done or (self._has_begun and self._is_scalar)
        return self.is_done

    def _step(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if self._in_string:
            return self._step_in_string(text, at)
        if self._is_scalar:
            match = _SCALAR_END.search(text, at)
            self.is_done = match is not None
            return match.start() if match else len(text)
        if not self._has_begun:
            self._has_begun = True
            self._is_scalar = text[at] not in '"{['
            return at
        match = _OUTSIDE.search(text, at)
        if not match:
            return len(text)
        if match.group() == '"':
            self._in_string = True
        else:
            self._depth += 1 if match.group() in "{[" else -1
            self.is_done = self._depth <= 0
        return match.end()

    def _step_in_string(self, text: str, at: int) -> int:
        match = _IN_STRING.search(text, at)
        if not match:
            return len(text)
        if match.group() == "\\":
            self._is_escaped = True
        else:
            self._in_string = False
            self.is_done = self._depth <= 0
        return match.end()
