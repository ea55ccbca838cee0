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
from handler.engine.prompt import MixedText
from handler.errors import ContextLengthError

MAX_WHOLE = 16_384  # bytes of a text without literals that is tokenized in one call
MIN_PIECE = 4_096  # bytes between two cuts: some hundred special tokens at most
PREFIXES = (65_536, 262_144, 1_048_576)  # bytes of a long text that are tried first
SLACK = 64  # tokens by which the end of a prefix may differ from the same place in the whole

WHITE_SPACE = " \t\n\v\f\r"  # C's

Trie = dict[str, "Trie"]  # by character; a text ends at the key END
END = ""


class Tokenizer:
    """For one vocabulary; any thread. What a long text needs is made with the first: some tenths of a second."""

    def __init__(self, vocabulary: ModelVocabulary) -> None:
        self._vocabulary = vocabulary

    def tokenize(self, text: str | MixedText, *, max_tokens: int, add_special: bool = True) -> list[int]:
        """The tokens, with the model's BOS token once if `add_special`: chat templates often write it themselves.

        Raises InvalidRequestError; ContextLengthError once it is clear that there are more than `max_tokens`, where
        counting all of them would take long.
        """
        vocabulary = self._vocabulary
        text, literals = text if isinstance(text, MixedText) else (text, ())
        if add_special and vocabulary.adds_bos and (bos := vocabulary.bos_token) and text.startswith(bos):
            text, literals = text[len(bos) :], tuple((start - len(bos), end - len(bos)) for start, end in literals)
        data = text.encode("utf-8", "replace")
        if vocabulary.adds_eos or (not literals and len(data) <= MAX_WHOLE):
            return vocabulary.tokenize(data, add_special=add_special, parse_special=not literals)
        token_ids: list[int] = vocabulary.tokenize(b"", add_special=add_special)
        for part in self._parts(text, frozenset(start for start, _ in literals)):
            if len(token_ids) > max_tokens:
                raise _too_long(max_tokens)
            token_ids += [part] if isinstance(part, int) else self._plain(part, max_tokens)
        return token_ids

    def plain(self, text: str) -> list[int]:
        """The tokens of a text in which nothing is a control token, all of them, without the model's own ends."""
        return self.mixed([(text, False)])

    def mixed(self, texts: Iterable[tuple[str, bool]]) -> list[int]:
        """The tokens of texts in one piece, without the model's own ends. Control tokens are read as such only where
        the texts' flags say so."""
        whole, literals = "", set()
        for text, has_control_tokens in texts:
            if not has_control_tokens:
                literals |= self._control_starts(text, len(whole))
            whole += text
        if not literals and len(whole) <= MIN_PIECE:
            return self._vocabulary.tokenize(whole.encode("utf-8", "replace"), add_special=False)
        token_ids: list[int] = []
        for part in self._parts(whole, frozenset(literals)):
            token_ids += [part] if isinstance(part, int) else self._pieces(part)
        return token_ids

    @cached_property
    def ends(self) -> tuple[list[int], list[int]]:
        """What the model's own beginning and end are, around any text."""
        inner = self._vocabulary.tokenize(b"a", add_special=False)
        whole = self._vocabulary.tokenize(b"a")
        start = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
        return whole[:start], whole[start + len(inner) :]

    def _control_starts(self, text: str, offset: int) -> set[int]:
        """Where texts begin that spell a control token."""
        starts: set[int] = set()
        at = 0
        while match := self._control_pattern.search(text, at):
            starts.add(offset + match.start())
            at = match.start() + 1
        return starts

    def _parts(self, text: str, literals: frozenset[int]) -> Iterator[bytes | int]:
        """Control tokens and what lies between them. `literals`: where texts begin that spell one and are none."""
        controls = self._vocabulary.control_tokens
        start, strips, at = 0, False, 0
        while match := self._control_pattern.search(text, at):
            if match.start() in literals:
                at = match.start() + 1
                continue
            token = controls[match[0]]
            if between := _between(text[start : match.start()], left=strips, right=token.strips_left):
                yield between
            yield token.token_id
            start = at = match.end()
            strips = token.strips_right
        if rest := _between(text[start:], left=strips, right=False):
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
    def _control_pattern(self) -> re.Pattern[str]:
        return any_of(self._vocabulary.control_tokens)

    @cached_property
    def _user_defined_pattern(self) -> re.Pattern[bytes]:
        return re.compile(any_of(self._vocabulary.user_defined_texts).pattern.encode(), re.DOTALL)


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of the texts at a place. A trie, for some vocabularies have thousands that begin alike."""
    trie: Trie = {}
    for text in texts:
        node = trie
        for char in text:
            node = node.setdefault(char, {})
        node[END] = {}
    return re.compile(_pattern(trie) if trie else "(?!)", re.DOTALL)


def _pattern(node: Trie) -> str:
    branches = [re.escape(char) + _pattern(child) for char, child in node.items() if char != END]
    if not branches:
        return ""
    joined = branches[0] if len(branches) == 1 and END not in node else f"(?:{'|'.join(branches)})"
    return joined + "?" if END in node else joined


def _between(text: str, *, left: bool, right: bool) -> bytes:
    """Text beside control tokens, of which some take white space along."""
    text = text.lstrip(WHITE_SPACE) if left else text
    return (text.rstrip(WHITE_SPACE) if right else text).encode("utf-8", "replace")


def _too_long(max_tokens: int) -> ContextLengthError:
    return ContextLengthError(
        f"This model's maximum context length is {max_tokens} tokens, but the prompt alone has more. Please shorten it."
    )
