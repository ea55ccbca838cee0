"""Where embeddings stand in a prompt instead of tokens: an image, or a part of one. Pure code.

A prompt is one list of token ids all the same, so that scheduler and caches need not know of media. A run's ids are
negative, and name its content: two prompts have a run in common exactly where their ids are equal.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_KEY = 2**30 - 1  # so that ids have 32 bits, as tokens have


@dataclass(frozen=True, eq=False, slots=True)
class MediaRun:
    """Embeddings that llama.cpp computes in one step, or not at all. Never changed; any thread.

    `key`, from 1 to MAX_KEY, names the content. `num_positions` are as many as tokens, but for models that place an
    image in two dimensions.
    """

    key: int
    embeddings: npt.NDArray[np.float32]  # (num_tokens, the model's width)
    is_causal: bool = True  # False: its tokens attend to each other in both directions
    grid: npt.NDArray[np.int32] | None = None  # (3, num_tokens): time, row, column from its start; None: a line
    num_positions: int = 0  # 0: as many as tokens

    @property
    def num_tokens(self) -> int:
        return len(self.embeddings)

    @property
    def num_saved(self) -> int:
        """Positions that it takes less than it has tokens."""
        return self.num_tokens - self.num_positions if self.num_positions else 0

    @property
    def token_ids(self) -> list[int]:
        """What stands for it: an even number, then odd ones."""
        first, rest = -2 * self.key, -2 * self.key - 1
        return [first] + [rest] * (self.num_tokens - 1)


def whole_runs(token_ids: list[int], num_tokens: int) -> int:
    """How many of the first tokens can be kept without cutting a run in two."""
    while 0 < num_tokens < len(token_ids) and _continues_run(token_ids[num_tokens]):
        num_tokens -= 1
    return num_tokens


def _continues_run(token_id: int) -> bool:
    return token_id < 0 and token_id % 2 == 1
