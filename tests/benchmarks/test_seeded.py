"""What the comparison of seeded texts says."""

from benchmarks.client import Answer
from benchmarks.seeded import Pair, Rates, body, rate, report

RATES = Rates(alone=280.4, among=101.0, others=900.6)


def test_equal_texts_are_counted_and_different_ones_named() -> None:
    said = report([Pair("same", "same", 3), Pair("a cat sat", "a cat ran", 0)], RATES, 15)

    assert said.startswith("1 of 2 texts are equal, byte by byte, alone and among 15 others; 3 prompt tokens")
    assert "seed 1: different after 6 of 9 characters" in said
    assert "tokens/s: seeded 280 alone and 101 among others, which had 901" in said


def test_a_rate_is_of_answers_one_after_another() -> None:
    assert rate([Answer(1.0, ended=3.0, num_tokens=30), Answer(9.0, ended=10.0, num_tokens=30)]) == 20


def test_a_text_that_ends_early_is_different() -> None:
    pair = Pair("the whole", "the", 0)

    assert (pair.is_equal, pair.num_equal) == (False, 3)


def test_both_times_the_same_is_asked() -> None:
    assert body(3, 64) == body(3, 64)
    assert body(3, 64)["seed"] == 3
    assert body(3, 64)["messages"] != body(4, 64)["messages"]
