"""What a sequence begins with, before it is tokens. A leaf."""

from typing import NamedTuple


class MixedText(NamedTuple):
    """Text in which some spans spell a control token and are none.

    `literals` are these spans, half open, in characters and in their order; every other control token in the text is
    read as one.
    """

    text: str
    literals: tuple[tuple[int, int], ...]


class Infill(NamedTuple):
    """A gap between two texts, in which no control tokens are read."""

    prefix: str
    suffix: str
    begun: str = ""  # how the middle begins
    extra: tuple[tuple[str, str], ...] = ()  # other files: name and text
    suffix_first: bool = False  # the order in which the model was trained
    may_cut: bool = False  # keep what is near the gap where all of it is too long


class MediaPrompt(NamedTuple):
    """Texts with media between them: one text more than there are media, perhaps empty ones."""

    texts: tuple[MixedText, ...]
    media: tuple[bytes, ...]  # files as they came

    @property
    def text(self) -> str:
        """All of it but the media."""
        return "".join(mixed.text for mixed in self.texts)


# Control tokens in a plain text are read as such; or token ids.
Prompt = str | MixedText | MediaPrompt | Infill | list[int]
