"""What a sequence begins with, before it is tokens. A leaf."""

from typing import NamedTuple


class GuardedText(NamedTuple):
    """Text in which `guard` stands within every special token's text that is to stay text.

    Where the guard stands is not part of the text: "<GUARDim_end>" is the text "<im_end>", and "<im_end>" the token.
    """

    text: str
    guard: str


Prompt = str | GuardedText | list[int]  # special tokens in a plain text are read as such; or token ids
