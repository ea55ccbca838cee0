"""Text to tokens in time linear in its length, and no further than a prompt can be long.

llama.cpp splits a text at each special token through a list, which takes time by the square of their number: 390,000
of them, 4 MB, are minutes. So a long text is cut before special tokens into pieces that llama.cpp tokenizes one by one;
the tokens are the same, since it never joins text across a special token.
"""

import re
from collections.abc import Iterator
from functools import cached_property

from handler.engine.llama.vocabulary import ModelVocabulary
from handler.errors import ContextLengthError

MAX_WHOLE = 16_384  # bytes of a text that is tokenized in one call
MIN_PIECE = 4_096  # bytes: some hundred special tokens at most

Trie = dict[int, "Trie"]  # by byte; a token ends at the key END
END = -1


class Tokenizer:
    """For one vocabulary; any thread. What a long text needs is made with the first: a second for 150,000 tokens."""

    def __init__(self, vocabulary: ModelVocabulary) -> None:
        self._vocabulary = vocabulary

    def tokenize(self, text: str, *, max_tokens: int, add_special: bool = True) -> list[int]:
        """The tokens, with the model's BOS token once if `add_special`: chat templates often write it themselves.

        Raises InvalidRequestError; ContextLengthError once it is clear that there are more than `max_tokens`, where
        counting all of them would take long.
        """
        vocabulary = self._vocabulary
        if add_special and vocabulary.adds_bos and vocabulary.bos_token:
            text = text.removeprefix(vocabulary.bos_token)
        data = text.encode("utf-8", "replace")
        if len(data) <= MAX_WHOLE:
            return vocabulary.tokenize(data, add_special=add_special)
        if len(data) > max_tokens * self._longest:
            raise _too_long(max_tokens)
        token_ids: list[int] = []
        for number, piece in enumerate(self._pieces(data)):
            if len(token_ids) > max_tokens:
                raise _too_long(max_tokens)
            token_ids += vocabulary.tokenize(piece, add_special=add_special and number == 0)
        return token_ids

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """Cut before special tokens. A text without any is one piece."""
        start = 0
        while cut := self._specials.search(data, start + MIN_PIECE):
            yield data[start : cut.start()]
            start = cut.start()
        yield data[start:]

    @cached_property
    def _longest(self) -> int:
        """Bytes of text that one token stands for, at most."""
        vocabulary = self._vocabulary
        return max((len(vocabulary.text_of(token_id)) for token_id in range(vocabulary.num_tokens)), default=1)

    @cached_property
    def _specials(self) -> "re.Pattern[bytes]":
        """Finds any special token's text. A trie, for some vocabularies have thousands that begin alike."""
        vocabulary = self._vocabulary
        trie: Trie = {}
        for token_id in filter(vocabulary.is_special, range(vocabulary.num_tokens)):
            node = trie
            for byte in vocabulary.text_of(token_id):
                node = node.setdefault(byte, {})
            node[END] = {}
        trie.pop(END, None)
        return re.compile(_pattern(trie) if trie else rb"(?!)", re.DOTALL)


def _pattern(node: Trie) -> bytes:
    if END in node:
        return b""  # any special token will do as a place to cut
    branches = [re.escape(bytes([byte])) + _pattern(child) for byte, child in node.items()]
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


def _too_long(max_tokens: int) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {max_tokens} tokens, but the prompt alone has more. Please shorten it."
    )
