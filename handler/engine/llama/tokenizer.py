"""Text to tokens in time linear in its length, no further than a prompt can be long, and control tokens only where they
are meant.

llama.cpp splits a text at each special token through a list, which takes time by the square of their number: 390,000
of them, 4 MB, are minutes. And it reads them wherever they stand. So a text is split at its control tokens here, and
llama.cpp is given what lies between them; the tokens are the same, since it never joins text across a special token.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.prompt import GuardedText
from handler.errors import ContextLengthError

MAX_WHOLE = 16_384  # bytes of a text without guards that is tokenized in one call
MIN_PIECE = 4_096  # bytes between two cuts: some hundred special tokens at most
PREFIXES = (65_536, 262_144, 1_048_576)  # bytes of a long text that are tried first
SLACK = 64  # tokens by which the end of a prefix may differ from the same place in the whole

Trie = dict[int, "Trie"]  # by byte; a text ends at the key END
END = -1


class Tokenizer:
    """For one vocabulary; any thread. What a long text needs is made with the first: some tenths of a second."""

    def __init__(self, vocabulary: ModelVocabulary) -> None:
        self._vocabulary = vocabulary

    def tokenize(self, text: str | GuardedText, *, max_tokens: int, add_special: bool = True) -> list[int]:
        """The tokens, with the model's BOS token once if `add_special`: chat templates often write it themselves.

        Raises InvalidRequestError; ContextLengthError once it is clear that there are more than `max_tokens`, where
        counting all of them would take long.
        """
        vocabulary = self._vocabulary
        text, guard = text if isinstance(text, GuardedText) else (text, "")
        if add_special and vocabulary.adds_bos and vocabulary.bos_token:
            text = text.removeprefix(vocabulary.bos_token)
        data, mark = text.encode("utf-8", "replace"), guard.encode()
        is_guarded = bool(mark) and mark in data
        if vocabulary.adds_eos or (not is_guarded and len(data) <= MAX_WHOLE):
            return vocabulary.tokenize(data, add_special=add_special, parse_special=not is_guarded)
        token_ids: list[int] = vocabulary.tokenize(b"", add_special=add_special)
        for part in self._parts(data, mark):
            if len(token_ids) > max_tokens:
                raise _too_long(max_tokens)
            token_ids += [part] if isinstance(part, int) else self._plain(part, max_tokens)
        return token_ids

    def _parts(self, data: bytes, mark: bytes) -> Iterator[bytes | int]:
        """Control tokens and what lies between them, without its guards."""
        controls = self._vocabulary.control_tokens
        start, strips = 0, False
        for match in self._control_pattern.finditer(data):
            token = controls[match[0]]
            between = _between(data[start : match.start()], mark, left=strips, right=token.strips_left)
            if between:
                yield between
            yield token.token_id
            start, strips = match.end(), token.strips_right
        if rest := _between(data[start:], mark, left=strips, right=False):
            yield rest

    def _plain(self, data: bytes, max_tokens: int) -> list[int]:
        """Of text without control tokens."""
        for size in PREFIXES:
            if len(data) > size:
                prefix = data[:size].decode("utf-8", "ignore").encode()
                if len(self._pieces(prefix)) > max_tokens + SLACK:
                    raise _too_long(max_tokens)
        return self._pieces(data)

    def _pieces(self, data: bytes) -> list[int]:
        """Cut before user-defined tokens, of which a text may be full too."""
        token_ids: list[int] = []
        start = 0
        while cut := self._user_defined_pattern.search(data, start + MIN_PIECE):
            token_ids += self._vocabulary.tokenize(data[start : cut.start()], add_special=False, parse_special=False)
            start = cut.start()
        return token_ids + self._vocabulary.tokenize(data[start:], add_special=False, parse_special=False)

    @cached_property
    def _control_pattern(self) -> re.Pattern[bytes]:
        return any_of(self._vocabulary.control_tokens)

    @cached_property
    def _user_defined_pattern(self) -> re.Pattern[bytes]:
        return any_of(self._vocabulary.user_defined_texts)


def any_of(texts: Iterable[bytes]) -> re.Pattern[bytes]:
    """Finds the longest of the texts at a place. A trie, for some vocabularies have thousands that begin alike."""
    trie: Trie = {}
    for text in texts:
        node = trie
        for byte in text:
            node = node.setdefault(byte, {})
        node[END] = {}
    return re.compile(_pattern(trie) if trie else rb"(?!)", re.DOTALL)


def _pattern(node: Trie) -> bytes:
    branches = [re.escape(bytes([byte])) + _pattern(child) for byte, child in node.items() if byte != END]
    if not branches:
        return b""
    joined = branches[0] if len(branches) == 1 and END not in node else b"(?:" + b"|".join(branches) + b")"
    return joined + b"?" if END in node else joined


def _between(data: bytes, mark: bytes, *, left: bool, right: bool) -> bytes:
    """Text beside control tokens, of which some take white space along."""
    data = data.replace(mark, b"") if mark else data
    data = data.lstrip() if left else data
    return data.rstrip() if right else data


def _too_long(max_tokens: int) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {max_tokens} tokens, but the prompt alone has more. Please shorten it."
    )
