"""What people ask for, as the closed loop draws it."""

import random
import statistics

from benchmarks.people import ANSWER_TOKENS, NUM_UNIQUE, PROMPT_WORDS, WORDS, Lengths, question, unique_text


def test_lengths_are_log_normal_and_clipped() -> None:
    source = random.Random(1)
    lengths = sorted(PROMPT_WORDS.draw(source) for _ in range(20_000))

    assert (lengths[0], lengths[-1]) == (20, 900)
    assert 116 <= statistics.median(lengths) <= 124
    assert 260 <= lengths[int(0.8413 * len(lengths))] <= 275  # one sigma above: 120 * e ** 0.8


def test_answers_are_as_long_as_people_read() -> None:
    assert Lengths(median=90, sigma=0.7, least=8, most=400) == ANSWER_TOKENS


def test_texts_begin_like_no_other() -> None:
    source = random.Random(1)
    beginnings = {unique_text(source, 20)[: 2 * NUM_UNIQUE] for _ in range(100)}

    assert len(beginnings) == 100


def test_a_text_has_as_many_words_as_it_should() -> None:
    words = unique_text(random.Random(1), 50).split()

    assert len(words) == 50
    assert set(words[NUM_UNIQUE:]) <= set(WORDS)


def test_the_same_seed_asks_the_same() -> None:
    assert question(random.Random("1 2")) == question(random.Random("1 2")) != question(random.Random("1 3"))
