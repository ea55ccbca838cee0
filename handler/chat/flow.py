"""Text on its way out of a parser."""

from collections.abc import Callable, Iterator

from handler.chat.events import Event
from handler.chat.reader import TextReader


class Flow:
    """Text of one kind. White space at its end is held until other text follows; that at its beginning may go.

    With a reader, it notes where what has gone out stands in the answer. Text is written once the reader's position is
    behind it.
    """

    def __init__(self, make: Callable[[str], Event], reader: TextReader | None = None, *, is_trimmed: bool) -> None:
        self.has_begun = False  # anything but white space has gone out
        self._spans: list[tuple[int, int]] = []
        self._reader = reader
        self._make = make
        self._held = ""
        self._is_trimmed = is_trimmed

    def write(self, text: str) -> Iterator[Event]:
        if self._is_trimmed:
            text = text.lstrip()
        if not text:
            return
        text = self._held + text
        body = text.rstrip()
        self._held = text[len(body) :]
        if body:
            self._is_trimmed = False
            self.has_begun = True
            yield self._out(body)

    def break_off(self, separator: str = "") -> None:
        """A marker stands here: the white space on both sides of it is dropped, or becomes the separator."""
        self._held = separator if self.has_begun else ""
        self._is_trimmed = True

    def finish(self) -> Iterator[Event]:
        """White space that nothing follows is as the model wrote it."""
        if self._held and not self._is_trimmed:
            held, self._held = self._held, ""
            yield self._out(held)

    def take_spans(self) -> list[tuple[int, int]]:
        """Where what has gone out since the last time stands in the answer: half open, in their order."""
        spans, self._spans = self._spans, []
        return spans

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def _out(self, text: str) -> Event:
        if self._reader is not None:
            end = self._reader.position - len(self._held)
            self._spans.append((end - len(text), end))
        return self._make(text)
