"""Tokens whose logits one sequence's sampling changes: biased ones, and those the penalties look back at.

Any of them may become likelier than the likeliest. Knows nothing of how much they change.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from handler.engine.sampling_params import SamplingParams


class AdjustedTokens:
    def __init__(self, params: SamplingParams, prompt_token_ids: list[int], biased: list[int]) -> None:
        self._biased = frozenset(biased)
        self._recent: deque[int] = deque(maxlen=0)  # what the repeat penalty looks back at
        if params.repeat_penalty != 1:
            self._recent = deque(prompt_token_ids, None if params.repeat_last_n < 0 else params.repeat_last_n)
        self._keeps_answer = bool(params.frequency_penalty or params.presence_penalty)
        self._answer: set[int] = set()
        self._cached: npt.NDArray[np.intp] | None = None

    @property
    def token_ids(self) -> npt.NDArray[np.intp]:
        if self._cached is None:
            self._cached = np.array(list(self._biased.union(self._recent, self._answer)), np.intp)
        return self._cached

    def add(self, token_id: int) -> None:
        """A token was drawn."""
        if self._recent.maxlen != 0:
            self._recent.append(token_id)
            self._cached = None
        if self._keeps_answer:
            self._answer.add(token_id)
            self._cached = None
