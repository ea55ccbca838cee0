"""From the bytes of tokens to text that may be shown.

Two things are held back: the first bytes of a character until its last one is there, and text that may turn out to be
the beginning of a stop string. Knows nothing of tokens.
"""

import codecs


class Detokenizer:
    """The text of one sequence. Bytes that are not UTF-8 become U+FFFD; a character that is only incomplete does
    not."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = stop
        self._held = ""
        self.num_shown = 0  # characters given out
        self.stopped_by = ""  # the stop string that was found: no more text is shown

    @property
    def num_decoded(self) -> int:
        """Characters decoded so far, shown or held back."""
        return self.num_shown + len(self._held)

    @property
    def stopped(self) -> bool:
        return bool(self.stopped_by)

    @property
    def is_within_character(self) -> bool:
        """Whether the last character's bytes are not all there."""
        return bool(self._decoder.getstate()[0])

    def feed(self, piece: bytes, *, is_searched: bool = True) -> str:
        """Add a token's bytes; return what can be shown now. Stop strings do not count where nothing is searched."""
        self._held += self._decoder.decode(piece)
        if not is_searched:
            return self._show(len(self._held))
        found = self._find_stop()
        if found is None:
            return self._show(len(self._held) - self._num_held_back())
        start, self.stopped_by = found
        text = self._show(start)
        self._held = ""
        return text

    def end_character(self) -> None:
        """Give up a character whose rest does not come: what follows is no text of the model."""
        self._held += self._decoder.decode(b"", final=True)

    def finish(self) -> str:
        """At the end of the sequence: the text that was held back for a stop string that did not come."""
        return self._show(len(self._held))

    def _show(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        self.num_shown += len(text)
        return text

    def _find_stop(self) -> tuple[int, str] | None:
        """The stop string that was complete first and where it begins, however the text was cut into pieces."""
        found = [(start + len(stop), start, stop) for stop in self._stop if (start := self._held.find(stop)) >= 0]
        return min(found)[1:] if found else None

    def _num_held_back(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return max((_overlap(self._held, stop) for stop in self._stop), default=0)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
