"""Who guesses what comes next of a sequence.

A guess is a draft: tokens that are computed together with the sequence's own and count only as far as its sampler draws
the same ones. So a bad guess costs time and changes no text.
"""

from collections.abc import Sequence as List
from typing import Protocol

from handler.engine.sequence import Sequence


class Drafter(Protocol):
    """Used by the engine thread alone. Knows tokens; nothing of cells, batches and what becomes of its drafts."""

    def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
        """For each sequence the tokens that may follow its last one, at most so many; none is a good answer.

        Raises DecodeError.
        """
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over. It may never have been asked about."""
        ...

    def close(self) -> None: ...
