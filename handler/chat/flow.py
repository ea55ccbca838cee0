"""Text on its way out of a parser."""

from collections.abc import Callable, Iterator

from handler.chat.events import Event


class Flow:
    """Text of one kind. White space at its end is held until other text follows; that at its beginning may go."""

    def __init__(self, make: Callable[[str], Event], *, is_trimmed: bool) -> None:
        self.has_begun = False  # anything but white space has gone out
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
            yield self._make(body)

    def break_off(self, separator: str = "") -> None:
        """A marker stands here: the white space on both sides of it is dropped, or becomes the separator."""
        self._held = separator if self.has_begun else ""
        self._is_trimmed = True

    def finish(self) -> Iterator[Event]:
        """White space that nothing follows is as the model wrote it."""
        if self._held and not self._is_trimmed:
            yield self._make(self._held)
