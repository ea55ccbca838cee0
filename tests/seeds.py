"""Seeds of tests that try random orders: few in every run, many with `-m seeds`."""

import pytest

NUM_USUAL = 50
NUM_ALL = 300


def seeds() -> list[object]:
    """For `parametrize`: the first ones, then those behind the marker."""
    return [*range(NUM_USUAL), *(pytest.param(seed, marks=pytest.mark.seeds) for seed in range(NUM_USUAL, NUM_ALL))]
