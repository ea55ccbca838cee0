"""Which positions of a prompt still have to be scored, and the scores that are there. Pure code.

The row of logits at one position gives the logprob of the token at the next one. So a prompt of n tokens has n - 1
scores, of its positions 0 to n - 2, and a position whose score is not known cannot be taken from the cache.
"""

from handler.engine.logprobs import ScoredPrompt, TokenLogprob

MAX_SCORED_TOKENS = 64  # rows of logits of prompts in a step; each has as many numbers as the vocabulary has tokens


class PromptScores:
    """The scores of one prompt, which come in the order of its positions. Engine thread only."""

    def __init__(self, num_prompt_tokens: int) -> None:
        self._num_positions = num_prompt_tokens - 1
        self._entries: list[TokenLogprob] = []
        self._is_taken = False

    @property
    def num_known(self) -> int:
        """Positions whose scores are there: the first ones."""
        return len(self._entries)

    @property
    def is_complete(self) -> bool:
        return self.num_known >= self._num_positions

    def wanted(self, start: int, num_tokens: int) -> range:
        """Those of so many positions from `start` on that have to be scored: the last ones of them, or none."""
        return range(max(start, self.num_known), min(start + num_tokens, self._num_positions))

    def limited(self, start: int, num_tokens: int, max_rows: int) -> int:
        """So many of the positions from `start` on, in order, that at most `max_rows` have to be scored."""
        end = max(start, self.num_known) + max_rows
        return num_tokens if end >= self._num_positions else min(num_tokens, end - start)

    def add(self, entries: list[TokenLogprob]) -> None:
        """The scores of the next positions."""
        self._entries += entries

    def take(self, token_id: int, piece: bytes) -> ScoredPrompt | None:
        """Once, when all scores are there, the prompt that begins with this token; else None."""
        if self._is_taken or not self.is_complete:
            return None
        self._is_taken = True
        return ScoredPrompt(token_id, piece, tuple(self._entries))
