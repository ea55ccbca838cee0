"""What becomes of a model's results: unit vectors, shorter ones, scores. Pure code."""

import numpy as np

from handler.embedding.runner import Vectors


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1, float32; a row of zeros stays one."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def probabilities(scores: Vectors) -> Vectors:
    """The logistic function, in float64, which a large negative score does not overflow."""
    wide = scores.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
