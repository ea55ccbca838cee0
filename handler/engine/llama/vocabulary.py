"""A model's vocabulary, read from llama.cpp."""

import ctypes
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.engine.infill import FimTokens
from handler.engine.llama.model import Pointer
from handler.engine.llama.native import require_native
from handler.engine.vocabulary import NativeTokenizer
from handler.errors import InvalidRequestError

CONTROL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
SPECIAL = CONTROL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED


class ControlToken(NamedTuple):
    """A special token, and whether it takes the white space beside its text along."""

    token_id: int
    strips_left: bool
    strips_right: bool


class ModelVocabulary:
    """A `GrammarVocabulary`: text to tokens and back. May be used by any thread, as long as the model is loaded.

    Knows nothing of contexts and sampling.
    """

    def __init__(self, vocab: Pointer) -> None:
        self.vocab = vocab
        self.num_tokens: int = llama.llama_vocab_n_tokens(vocab)
        self.bos_token = self._special(llama.llama_vocab_bos(vocab))
        self.eos_token = self._special(llama.llama_vocab_eos(vocab))
        self.any_token: int = max(0, llama.llama_vocab_bos(vocab))
        self.adds_eos = bool(llama.llama_vocab_get_add_eos(vocab))
        self.adds_bos = bool(llama.llama_vocab_get_add_bos(vocab))
        self.piece = functools.cache(self._piece)  # bounded by the number of tokens
        self.special_token = functools.cache(self._special_token)  # asked for the markers of one template
        self.is_end_of_generation = functools.cache(self._is_end_of_generation)

    @functools.cached_property
    def end_of_generation(self) -> frozenset[int]:
        return frozenset(_tokens(require_native().tokens_that, llama.llama_vocab_is_eog, self.vocab, self.num_tokens))

    @functools.cached_property
    def fim_tokens(self) -> FimTokens | None:
        """Those for filling in the middle, as the file names them or llama.cpp knows them by their texts."""
        of = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(token(self.vocab)) for token in of)
        if min(prefix, suffix, middle) < 0:
            return None
        repository, file = llama.llama_vocab_fim_rep(self.vocab), llama.llama_vocab_fim_sep(self.vocab)
        bos = llama.llama_vocab_bos(self.vocab) if self.adds_bos else -1
        return FimTokens(prefix, suffix, middle, _known(repository), _known(file), _known(bos))

    @property
    def native_tokenizer(self) -> NativeTokenizer:
        """Valid as long as the model is loaded."""
        addresses = [ctypes.cast(pointer, ctypes.c_void_p).value for pointer in (self.vocab, llama._lib.llama_tokenize)]
        return NativeTokenizer(*(address or 0 for address in addresses))

    def tokenize(self, data: bytes, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """llama.cpp's tokens of UTF-8 text. `add_special`: with the model's own beginning; `parse_special`: control
        tokens in it are read as such.

        Takes time by the square of the number of special tokens in it. Raises InvalidRequestError.
        """
        capacity = len(data) + 8  # a token has a byte at least, but for those the model adds
        tokens = np.empty(capacity, np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        num_tokens = llama.llama_tokenize(self.vocab, data, len(data), pointer, capacity, add_special, parse_special)
        if num_tokens < 0:
            raise InvalidRequestError("The prompt cannot be tokenized.", param="prompt")
        return list(map(int, tokens[:num_tokens]))

    def _special_token(self, text: str) -> int | None:
        """By the tokens of the text: the same marker is one token in one model's file and several in another's."""
        token_ids = self.tokenize(text.encode(), add_special=False)
        is_one = len(token_ids) == 1 and llama.llama_vocab_get_attr(self.vocab, token_ids[0]) & SPECIAL
        return token_ids[0] if is_one else None

    def is_special(self, token_id: int) -> bool:
        """Whether llama.cpp looks for the token's text before it splits a text into words."""
        attributes: int = llama.llama_vocab_get_attr(self.vocab, token_id)
        return bool(attributes & (CONTROL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED))

    def text_of(self, token_id: int) -> bytes:
        """The token as the file has it: a special token's text, another's in the tokenizer's own alphabet."""
        text: bytes = llama.llama_vocab_get_text(self.vocab, token_id)
        return text

    @functools.cached_property
    def control_tokens(self) -> dict[str, ControlToken]:
        """By their text: tokens that are read only where control tokens are."""
        return dict(self._with_attributes(CONTROL))

    @functools.cached_property
    def user_defined_texts(self) -> frozenset[str]:
        """Of tokens that llama.cpp looks for in every text before it splits it into words."""
        return frozenset(text for text, _ in self._with_attributes(llama.LLAMA_TOKEN_ATTR_USER_DEFINED))

    def _with_attributes(self, wanted: int) -> Iterator[tuple[str, ControlToken]]:
        for token_id in _tokens(
            require_native().tokens_with, llama.llama_vocab_get_attr, self.vocab, self.num_tokens, wanted
        ):
            attributes: int = llama.llama_vocab_get_attr(self.vocab, token_id)
            if text := self.text_of(token_id):
                yield (
                    text.decode("utf-8", "replace"),
                    ControlToken(
                        token_id,
                        strips_left=bool(attributes & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                        strips_right=bool(attributes & llama.LLAMA_TOKEN_ATTR_RSTRIP),
                    ),
                )

    def _piece(self, token_id: int, special: bool = False) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama.llama_token_to_piece(self.vocab, token_id, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _is_end_of_generation(self, token_id: int) -> bool:
        return bool(llama.llama_vocab_is_eog(self.vocab, token_id))

    def _special(self, token_id: int) -> str:
        return self._piece(token_id, special=True).decode("utf-8", "replace") if token_id >= 0 else ""


def _known(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None


def _tokens(search: Any, function: Any, vocab: Pointer, num_tokens: int, *wanted: int) -> list[int]:
    """What one of vocabulary.c's functions finds with one of llama.cpp's: a call of each from Python, for each token,
    would take as long as the rest of a start."""
    found = np.empty(num_tokens, np.int32)
    search.restype = ctypes.c_size_t
    pointers = (ctypes.cast(function, ctypes.c_void_p), ctypes.c_void_p(vocab))
    num_found = search(*pointers, ctypes.c_int32(num_tokens), *wanted, found.ctypes.data_as(ctypes.c_void_p))
    return list(map(int, found[:num_found]))
