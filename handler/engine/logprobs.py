"""How likely a model thinks tokens are. A leaf."""

from typing import NamedTuple


class TokenLogprob(NamedTuple):
    """A token, its bytes, and the natural logarithm of its probability before any sampling parameter."""

    token_id: int
    piece: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()
    rank: int | None = None  # among all tokens, 1 being the likeliest; None: not counted


class ScoredPrompt(NamedTuple):
    """All tokens of a prompt: the first one, which nothing precedes, and the others with their logprobs."""

    token_id: int
    piece: bytes
    others: tuple[TokenLogprob, ...]
