"""Drafters that are always right, never, or at random; all record which sequences were forgotten."""

import random
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as List

from handler.engine.sequence import Sequence

Answers = Mapping[tuple[int, ...], list[int]]  # by prompt


class FakeDrafter:
    """Proposes nothing."""

    def __init__(self) -> None:
        self.forgotten: list[Sequence] = []
        self.is_closed = False

    def propose(self, sequences: List[Sequence], max_tokens: List[int]) -> list[list[int]]:
        return [self.draft(sequence)[:limit] for sequence, limit in zip(sequences, max_tokens, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence)

    def close(self) -> None:
        self.is_closed = True

    def draft(self, sequence: Sequence) -> list[int]:
        return []


class RightDrafter(FakeDrafter):
    """Knows the answers."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def draft(self, sequence: Sequence) -> list[int]:
        prompt = tuple(sequence.token_ids[: sequence.num_prompt_tokens])
        return list(self._answers[prompt][sequence.num_completion_tokens :])


class WrongDrafter(RightDrafter):
    """Knows the answers, and says the neighbours of all tokens."""

    def draft(self, sequence: Sequence) -> list[int]:
        return [token_id ^ 1 for token_id in super().draft(sequence)]


class MixedDrafter(RightDrafter):
    """Right up to a random place, then wrong, and sometimes silent."""

    def __init__(self, answers: Answers, seed: int = 1) -> None:
        super().__init__(answers)
        self._rng = random.Random(seed)

    def draft(self, sequence: Sequence) -> list[int]:
        return list(self._spoil(super().draft(sequence)))

    def _spoil(self, token_ids: list[int]) -> Iterator[int]:
        num_right = self._rng.randrange(6)
        for place, token_id in enumerate(token_ids[: self._rng.randrange(9)]):
            yield token_id if place < num_right else self._rng.randrange(10, 250)


class RandomDrafter(FakeDrafter):
    """Anything, of any length."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    def draft(self, sequence: Sequence) -> list[int]:
        return [self._rng.randrange(10, 250) for _ in range(self._rng.randrange(9))]
