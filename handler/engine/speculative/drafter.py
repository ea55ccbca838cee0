"""What guesses the next tokens of a sequence.

A guess is a draft: tokens that are computed together with the sequence's own and accepted only as far as its sampler
draws the same ones. So a wrong draft costs time and changes no text.
"""

from collections.abc import Sequence as List
from typing import Protocol

from handler.engine.sequence import Sequence


class Drafter(Protocol):
    """Engine thread only. Knows tokens; nothing of cells, batches and what becomes of its drafts."""

    def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
        """For each sequence the tokens that may follow its last one, at most `max_tokens`; an empty draft is fine.

        Raises DecodeError.
        """
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence is finished. `propose` may never have been called for it."""
        ...

    def close(self) -> None: ...
