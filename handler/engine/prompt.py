"""What a sequence begins with, before it is tokens. A leaf."""

from typing import NamedTuple


class MixedText(NamedTuple):
    """Text in which some spans spell a control token and are none.

    `literals` are these spans, half open, in characters and in their order; every other control token in the text is
    read as one.
    """

    text: str
    literals: tuple[tuple[int, int], ...]


Prompt = str | MixedText | list[int]  # control tokens in a plain text are read as such; or token ids
