"""Which seq_ids lie side by side, and what fills the gaps between them."""

import random
from itertools import pairwise

from handler.engine.cache.placement import MAX_PADDED, is_scattered, nearest, num_gaps, outermost, padding


def test_gaps() -> None:
    """What is missing between the first and the last."""
    assert num_gaps([]) == 0
    assert num_gaps([7]) == 0
    assert num_gaps([3, 4, 5]) == 0
    assert num_gaps([9, 3, 5]) == 4


def test_nearest() -> None:
    """Those among the running ones, else those next to them; all, if none runs."""
    assert nearest([4, 7], [0, 3, 5, 6, 8]) == [5, 6]
    assert nearest([4, 5], [0, 3, 6, 8]) == [3, 6]
    assert nearest([], [0, 9]) == [0, 9]


def test_padding_fills_small_gaps() -> None:
    """A large one is left: to begin anew costs less."""
    far = 7 + MAX_PADDED + 2
    assert padding([7, 2, 4, far]) == [3, 5, 6]
    assert padding([7, far - 1]) == list(range(8, far - 1))
    assert padding([3]) == padding([]) == []


def test_padded_ids_follow_one_another() -> None:
    """With random ones: no small gap is left, and none is there twice."""
    for seed in range(200):
        seq_ids = random.Random(seed).sample(range(100), 20)
        together = sorted([*seq_ids, *padding(seq_ids)])
        steps = [b - a for a, b in pairwise(together)]
        assert all(step == 1 or step > MAX_PADDED + 1 for step in steps)


def test_scattered() -> None:
    """A gap for every four is borne."""
    assert not is_scattered([])
    assert not is_scattered([5])
    assert not is_scattered([1, 2, 3, 5])
    assert is_scattered([1, 3])
    assert is_scattered([1, 2, 3, 6])


def test_outermost() -> None:
    """The one behind the larger gap."""
    assert outermost([1, 2, 9]) == 9
    assert outermost([1, 8, 9]) == 1
    assert outermost([1, 9]) == 9
