"""Most events of a stream are nothing but a few more characters: they are recognized without being parsed. Pure."""

import re

_STRING = rb'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'  # from behind its first quote
TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content)": ?"')
# From within the text to the end of the event: what says nothing, and fields of the chunk that only describe it.
REST = re.compile(
    _STRING
    + rb'(?:[]}, ]|"(?:\w++": ?null|index": ?0(?!\d)|created": ?\d++|(?:id|object|model|system_fingerprint|'
    + rb'service_tier|obfuscation)": ?"'
    + _STRING
    + rb"))*+\n\n"
)


class TextEvents:
    """Recognizes chunks that say nothing but text of the first choice, in one stream.

    They begin alike up to the text. How, is learned from one that `is_text` has looked through; then each costs one
    comparison and one match, however many come in a block.
    """

    def __init__(self) -> None:
        self._head = b""

    def are_all(self, block: bytes) -> bool:
        """Whether a block holds such events alone. What is not recognized may still be one, in an unusual form."""
        return (self._head != b"" and self._are_like_before(block)) or self._learns(block)

    def _are_like_before(self, block: bytes) -> bool:
        head, at, end = self._head, 0, len(block)
        while at < end:
            if not block.startswith(head, at) or (rest := REST.match(block, at + len(head))) is None:
                return False
            at = rest.end()
        return True

    def _learns(self, block: bytes) -> bool:
        event = block[: block.find(b"\n\n") + 2]
        if not is_text(event):
            return False
        if (text := TEXT.search(event)) is not None:
            self._head = event[: text.end()]
        return len(event) == len(block) or (text is not None and self._are_like_before(block))


def is_text(block: bytes) -> bool:
    """Whether a block is one chunk that says nothing but text of the first choice: most are, and need not be parsed.

    It is only looked through. In a text the quotes are behind backslashes, so these are names of fields.
    """
    index = block.find(b'"index":')
    return (
        block.find(b"\n") == len(block) - 2  # one line
        and block.startswith(b"data: {")
        and block[index + 8 : index + 10] in (b"0,", b" 0", b"0}")
        and index == block.rfind(b'"index":')
        and (b'"finish_reason":null' in block or b'"finish_reason": null' in block)
        and b'"error"' not in block
        and b'"message"' not in block
    )
