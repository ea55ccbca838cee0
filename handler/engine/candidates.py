"""The likeliest tokens of some rows of logits, found by reading each logit once.

A sampler that keeps the k likeliest tokens needs no others, but llama.cpp would make and sort a list of the whole
vocabulary for each sequence. Here a row is cut into blocks of every n-th token. The k-th largest of its blocks' maxima
is a bound: k tokens at least reach it, and tokens of blocks whose maximum does not reach it do not either. Little more
than k tokens are left of a row.

NumPy alone, on whole arrays. Knows nothing of samplers and llama.cpp.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LOWEST = np.finfo(np.float32).min
BLOCK = 64  # tokens: smaller ones make more maxima to choose from, larger ones more tokens to hold against the bound

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


class Candidates(NamedTuple):
    """Tokens of all rows, row by row in the order of their ids. Row r has those from `starts[r]` to `starts[r + 1]`."""

    token_ids: Indices
    logits: Logits
    starts: Indices


def max_candidates(num_tokens: int) -> int:
    """How many of a vocabulary's likeliest tokens may be asked for. Beyond, a list of all is as good."""
    return num_tokens // BLOCK // 4


def likeliest(logits: Logits, num: int, also: Indices) -> Candidates:
    """At least the `num` likeliest tokens of each row, and those that `also` names as row * vocabulary + token id.

    A token whose logit is minus infinity is none of them, so there may be fewer. The rows are
    contiguous; `num` is at most `max_candidates`. A row that is not of numbers may come without tokens.
    """
    num_rows, num_tokens = logits.shape
    width = num_tokens // BLOCK
    blocks = logits[:, : BLOCK * width].reshape(num_rows, BLOCK, width)
    maxima = blocks.max(axis=1)
    bounds = np.maximum(np.partition(maxima, width - num, axis=1)[:, width - num, None], LOWEST)
    rows, numbers = np.divmod(np.flatnonzero(maxima >= bounds), width)
    found, places = np.divmod(np.flatnonzero(blocks[rows, :, numbers] >= bounds[rows]), BLOCK)
    also = also[logits.reshape(-1)[also] != -np.inf]
    keys = rows[found] * num_tokens + places * width + numbers[found]
    keys = _sorted_once(np.concatenate([keys, _in_rest(logits, BLOCK * width, bounds), also]))
    starts = np.searchsorted(keys, np.arange(num_rows + 1) * num_tokens)
    return Candidates(keys % num_tokens, logits.reshape(-1)[keys], starts)


def _in_rest(logits: Logits, start: int, bounds: Logits) -> Indices:
    """The tokens that reach their row's bound of those at the end, which fill no block."""
    num_tokens = logits.shape[1]
    if start == num_tokens:
        return np.empty(0, np.intp)
    rows, places = np.divmod(np.flatnonzero(logits[:, start:] >= bounds), num_tokens - start)
    keys: Indices = rows * num_tokens + start + places
    return keys


def _sorted_once(keys: Indices) -> Indices:
    """Sorting nearly sorted keys is many times faster than np.unique."""
    keys.sort()
    first: npt.NDArray[np.bool_] = np.diff(keys, prepend=-1) != 0
    return keys[first]
