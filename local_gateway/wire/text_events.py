"""Most events of a stream are nothing but a few more characters: they are recognized without being parsed. Pure."""

import re

_STRING = rb'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'  # from behind its first quote
TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content)": ?"')
# From within the text to the end of the event: what says nothing, and fields of the chunk that only describe it.
REST = re.compile(
    rb"("
    + _STRING
    + rb")"
    + rb'(?:[]}, ]|"(?:\w++": ?null|index": ?0(?!\d)|created": ?\d++|(?:id|object|model|system_fingerprint|'
    + rb'service_tier|obfuscation)": ?"'
    + _STRING
    + rb"))*+\n\n"
)


class TextBlock(bytes):
    """Events that say nothing but text, which was measured while they were recognized."""

    num_texts: int  # that are not empty
    num_text_bytes: int  # of their characters in UTF-8


class TextEvents:
    """Recognizes chunks that say nothing but text of the first choice, in one stream.

    They begin alike up to the text. How, is learned from one that `is_text` has looked through; then each costs one
    comparison and one match, however many come in a block.
    """

    def __init__(self) -> None:
        self._head = b""

    def read(self, block: bytes) -> bytes | None:
        """The block if it holds such events alone, as a TextBlock if they are like those before; else None.

        What is not recognized may still be one, in an unusual form.
        """
        return (self._measured(block) if self._head else None) or self._learned(block)

    def _measured(self, block: bytes) -> TextBlock | None:
        head, at, end = self._head, 0, len(block)
        begins, match, num_head_bytes = block.startswith, REST.match, len(self._head)
        num_texts = num_text_bytes = 0
        while at < end:
            start = at + num_head_bytes
            if not begins(head, at) or (rest := match(block, start)) is None:
                return None
            if length := rest.end(1) - start - 1:  # without its quote
                num_texts += 1
                num_text_bytes += length
            at = rest.end()
        texts = TextBlock(block)
        texts.num_texts = num_texts
        texts.num_text_bytes = num_text_bytes - (4 * block.count(b"\\u") if b"\\" in block else 0)  # \u0416: two bytes
        return texts

    def _learned(self, block: bytes) -> bytes | None:
        event = block[: block.find(b"\n\n") + 2]
        if not is_text(event):
            return None
        if (text := TEXT.search(event)) is not None:
            self._head = event[: text.end()]
            if (measured := self._measured(block)) is not None:
                return measured
        return block if len(event) == len(block) else None


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
