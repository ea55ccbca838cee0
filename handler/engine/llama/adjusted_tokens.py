"""Tokens whose logits biases or penalties may raise or lower.

They are added to the top-k candidates, without which sampling from the truncated row would not be exact.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from handler.engine.sampling_params import SamplingParams


class AdjustedTokens:
    """One sequence's set of them, which may change with each token. Knows nothing of how much a logit changes."""

    def __init__(self, params: SamplingParams, prompt_token_ids: list[int], biased: list[int]) -> None:
        self._biased = frozenset(biased)
        self._recent: deque[int] = deque(maxlen=0)  # what the repeat penalty looks back at
        if params.repeat_penalty != 1:
            self._recent = deque(prompt_token_ids, None if params.repeat_last_n < 0 else params.repeat_last_n)
        self._keeps_answer = bool(params.frequency_penalty or params.presence_penalty)
        self._answer: set[int] = set()

    def token_ids(self) -> npt.NDArray[np.intp]:
        """A new array of shape (number of tokens,), in no order."""
        return np.array(list(self._biased.union(self._recent, self._answer)), np.intp)

    def add(self, token_id: int) -> bool:
        """Note a token that was drawn. Whether the set may have changed."""
        if self._recent.maxlen != 0:
            self._recent.append(token_id)
        if self._keeps_answer:
            self._answer.add(token_id)
        return self._keeps_answer or self._recent.maxlen != 0
