"""The token masks of a whole step."""

from collections.abc import Sequence as List
from typing import TYPE_CHECKING

import numpy as np

from handler.engine.sequence import Matcher
from handler.engine.structured.grammar import GrammarMatcher
from handler.engine.structured.token_mask import TokenMask, Words, num_words

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher


class StepMasks:
    """Computes masks for several sequences at once, in `num_threads` threads without the GIL. Engine thread only.

    Knows nothing of logits, of schemas, and of how far a sequence is but by its matcher.
    """

    def __init__(self, num_tokens: int, num_threads: int) -> None:
        """`num_tokens`: of the vocabulary. The threads start with the first mask."""
        self._num_tokens = num_tokens
        self._num_threads = num_threads
        self._executor: LLExecutor | None = None

    def compute(self, matchers: List[Matcher | None]) -> list[TokenMask | None]:
        """Which tokens may come next, for each sequence that has a matcher; those that end an answer only where it may
        end."""
        masks: list[TokenMask | None] = [None] * len(matchers)
        constrained = [(index, matcher) for index, matcher in enumerate(matchers) if matcher is not None]
        if constrained:
            rows = self._words([_native(matcher) for _, matcher in constrained])
            for (index, _), row in zip(constrained, rows, strict=True):
                masks[index] = TokenMask.from_words(row, self._num_tokens)
        return masks

    def _words(self, matchers: "list[LLMatcher]") -> Words:
        if self._executor is None:
            from llguidance import LLExecutor  # noqa: PLC0415  # see grammar.py

            self._executor = LLExecutor(self._num_threads)
        words: Words = np.empty((len(matchers), num_words(self._num_tokens)), np.uint32)
        work = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(work, words.ctypes.data, words[0].nbytes, len(words))
        return words


def _native(matcher: Matcher) -> "LLMatcher":
    assert isinstance(matcher, GrammarMatcher), "made by a Grammar"
    return matcher.native
