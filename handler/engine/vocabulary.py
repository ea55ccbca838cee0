"""A model's tokens, as the engine sees them; what llama.cpp says of them is in llama/vocabulary.py."""

from typing import NamedTuple, Protocol


class Vocabulary(Protocol):
    """Token ids from 0 to `num_tokens` - 1 and their texts. May be used by any thread."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def end_of_generation(self) -> frozenset[int]:
        """All tokens that end an answer. The first call is slow for a large vocabulary."""
        ...

    def is_end_of_generation(self, token_id: int) -> bool: ...

    def piece(self, token_id: int) -> bytes:
        """The token's text, which may begin or end within a character; empty for control tokens."""
        ...

    def special_token(self, text: str) -> int | None:
        """The special token, control or defined by the user, that is written so; None where there is none."""
        ...


class NativeTokenizer(NamedTuple):
    """Addresses for a library that tokenizes without Python: forced text becomes the tokens a model expects."""

    vocab: int
    tokenize: int  # llama_tokenize, or a function of its signature
