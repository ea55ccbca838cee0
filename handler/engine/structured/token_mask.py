"""Which tokens may come next, made ready for a row of logits. NumPy alone; knows nothing of grammars and samplers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Logits = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]  # a bit for each token, the first one lowest


class TokenMask(NamedTuple):
    """The tokens that are allowed, or those that are forbidden, whichever are fewer.

    Looking through the bits of a large vocabulary takes four times as long as forbidding: it is done beforehand.
    """

    token_ids: Indices
    are_allowed: bool

    @classmethod
    def from_words(cls, words: Words, num_tokens: int) -> "TokenMask":
        allowed = _bits(words, num_tokens)
        if 2 * np.count_nonzero(allowed) <= num_tokens:
            return cls(np.flatnonzero(allowed), True)
        return cls(np.flatnonzero(_bits(~words, num_tokens)), False)

    def apply(self, logits: Logits) -> None:
        """Make the forbidden tokens of one row minus infinity, in place."""
        if self.are_allowed:
            kept = logits[self.token_ids]
            logits.fill(-np.inf)
            logits[self.token_ids] = kept
        else:
            logits[self.token_ids] = -np.inf


def num_words(num_tokens: int) -> int:
    return -(-num_tokens // 32)


def _bits(words: Words, num_tokens: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(words.view(np.uint8), count=num_tokens, bitorder="little").view(np.bool_)
