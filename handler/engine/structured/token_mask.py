"""Which tokens may come next, made ready for a row of logits. NumPy alone; knows nothing of grammars and samplers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Logits = npt.NDArray[np.float32]  # one row: (num_tokens,)
Words = npt.NDArray[np.uint32]  # a bit for each token, the first one lowest: (..., num_words)


class TokenMask(NamedTuple):
    """The allowed tokens of one sequence, or the forbidden ones, whichever are fewer.

    Scanning the bits of a large vocabulary takes four times as long as forbidding: it is done beforehand.
    """

    token_ids: Indices
    are_allowed: bool

    @classmethod
    def from_words(cls, words: Words, num_tokens: int) -> "TokenMask":
        """From the bits of one sequence, shape (num_words,)."""
        allowed = _bits(words, num_tokens)
        if 2 * np.count_nonzero(allowed) <= num_tokens:
            return cls(np.flatnonzero(allowed), True)
        return cls(np.flatnonzero(_bits(~words, num_tokens)), False)

    def apply(self, logits: Logits) -> None:
        """Set the forbidden tokens' logits of one row to minus infinity, in place."""
        if self.are_allowed:
            kept = logits[self.token_ids]
            logits.fill(-np.inf)
            logits[self.token_ids] = kept
        else:
            logits[self.token_ids] = -np.inf


def num_words(num_tokens: int) -> int:
    """32-bit words that have a bit for each token."""
    return -(-num_tokens // 32)


def _bits(words: Words, num_tokens: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(words.view(np.uint8), count=num_tokens, bitorder="little").view(np.bool_)
