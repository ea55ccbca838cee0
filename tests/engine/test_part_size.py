"""Parts of prompts are as large as the running sequences' gaps allow, on any machine."""

import random

import pytest

from handler.engine.part_size import DEFAULT, FRESH, LEAST, FixedPartSize, PartSize

GOAL, MOST = 1.8, 512


def run(size: PartSize, rows: int, quiet: float, per_token: float, steps: int = 1500) -> tuple[int, float]:
    """A machine whose steps take `quiet` seconds, and so much more for each token of a part beside them; the last size,
    and the share of the last 500 steps beside parts that missed the goal."""
    rng = random.Random(1)
    misses = []
    for number in range(steps):
        noise = rng.lognormvariate(0, 0.03)
        if number % 8 == 0:
            size.note(rows, quiet * noise, is_quiet=True)
            continue
        seconds = (quiet + per_token * size.tokens(rows)) * noise
        misses.append(seconds > GOAL * quiet)
        size.note(rows, seconds, is_quiet=False)
    return size.tokens(rows), sum(misses[-500:]) / 500


def test_a_usual_size_until_something_is_known() -> None:
    assert PartSize(GOAL, MOST).tokens(64) == DEFAULT
    assert PartSize(GOAL, 100).tokens(64) == 100


@pytest.mark.parametrize(("quiet", "per_token"), [(0.012, 60e-6), (0.012, 30e-6), (0.03, 120e-6), (0.008, 50e-6)])
def test_sizes_reach_the_goal_and_no_more(quiet: float, per_token: float) -> None:
    """Within a few sizes of what the machine allows; about one step in ten misses the goal."""
    size, misses = run(PartSize(GOAL, MOST), 64, quiet, per_token)

    allowed = (GOAL - 1) * quiet / per_token
    assert 0.8 * allowed < size <= min(MOST, 1.05 * allowed + 16)
    assert misses < 0.2


def test_a_machine_that_becomes_busy() -> None:
    size = PartSize(GOAL, MOST)
    before, _ = run(size, 64, 0.012, 50e-6)
    after, misses = run(size, 64, 0.012, 100e-6)

    assert after < 0.7 * before
    assert misses < 0.2


def test_prompts_on_16_bit_weights_begin_with_larger_parts() -> None:
    """What was learned about the file's weights says nothing about them."""
    size = PartSize(GOAL, MOST)
    before, _ = run(size, 64, 0.012, 120e-6)
    size.begin(is_16bit=True)

    assert size.tokens(64) > 2 * before
    assert size.tokens(64) == pytest.approx(30_000 * (GOAL - 1) * 0.012, abs=16)


def test_what_was_learned_holds_for_other_numbers_of_rows() -> None:
    """The added time does not depend on them: with shorter steps, parts are smaller."""
    size = PartSize(GOAL, MOST)
    many, _ = run(size, 64, 0.012, 60e-6)
    size.note(32, 0.008, is_quiet=True)

    assert size.tokens(32) == pytest.approx(many * 8 / 12, abs=16)
    assert size.tokens(31) == size.tokens(32)


def test_a_quiet_step_is_wanted_now_and_then() -> None:
    """At each number of rows, or a load that leaves none quiet would hide what steps take by themselves."""
    size = PartSize(GOAL, MOST)
    assert size.wants_quiet(64)
    size.note(8, 0.003, is_quiet=True)
    size.note(64, 0.02, is_quiet=False)
    assert size.wants_quiet(64)
    size.note(64, 0.012, is_quiet=True)
    for _ in range(FRESH):
        assert not size.wants_quiet(64)
        size.note(64, 0.02, is_quiet=False)

    assert size.wants_quiet(64)
    assert not FixedPartSize(96).wants_quiet(64)


def test_sizes_have_bounds() -> None:
    """Where the goal cannot be reached, or is reached by any."""
    assert run(PartSize(GOAL, MOST), 8, 0.002, 1e-3)[0] == LEAST
    assert run(PartSize(GOAL, MOST), 8, 0.05, 1e-6)[0] == MOST


def test_a_size_that_was_set() -> None:
    size = FixedPartSize(96)
    size.note(64, 1.0, is_quiet=False)

    assert size.tokens(64) == 96
