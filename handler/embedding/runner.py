"""The model on its device, as the embedder needs it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from handler.embedding.plan import EmbeddingPlan
from handler.engine.vocabulary import Vocabulary

Vectors = npt.NDArray[np.float32]


class EmbeddingRunner(Protocol):
    """A loaded model with a context that pools. `compute` is called by the embedder's thread alone, the rest by any.

    Knows batches of tokens; nothing of requests, queues and what becomes of a vector.
    """

    plan: EmbeddingPlan
    max_model_len: int  # tokens of one input
    is_probability: bool  # of a model that ranks: whether its scores lie between 0 and 1 by themselves

    @property
    def width(self) -> int:
        """Numbers of one result: the vector's, or those of a score."""
        ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text, in which what spells a special token is text; with the model's own beginning and end
        if `add_special`. There may be more than an input may have. Linear in the length; raises InvalidRequestError."""
        ...

    def cut(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """What `tokenize` gave, ended early, with the model's own end."""
        ...

    def pair(self, query: str, document: str, max_tokens: int | None) -> list[int]:
        """What a model that ranks reads; the document is ended early where there would be more than `max_tokens`."""
        ...

    def compute(self, inputs: Sequence[list[int]]) -> Vectors:
        """A float32 array of shape (inputs, width), a copy. The inputs are within the plan. Raises DecodeError."""
        ...

    def close(self) -> None:
        """Free the model. Nothing else is called any more."""
        ...
