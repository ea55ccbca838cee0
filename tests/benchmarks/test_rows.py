"""What the benchmarks make of their clients' answers."""

import pytest

from benchmarks.client import Answer
from benchmarks.ratios import percentile, quiet_gaps, second_turn
from benchmarks.row import Row, middle, summarise
from benchmarks.servers import room_for
from benchmarks.table import HEAD, conclusions, line
from benchmarks.throughput import compared, in_turn, longest_chat
from benchmarks.workloads import Shape


def answer(*arrivals: float, started: float = 0.0) -> Answer:
    """One whose texts arrived then, a token each."""
    return Answer(started, list(arrivals), arrivals[-1], num_tokens=len(arrivals))


def row(answers: list[Answer], workload: str = "equal", concurrency: int = 1, server: str = "this worker") -> Row:
    return summarise(workload, concurrency, server, 100.0, answers)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 3), (0.95, 4), (1.0, 4)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    """No mean of two, which was not measured."""
    assert percentile([4, 1, 3, 2], share) == value


def test_the_middle_run_knows_how_far_the_others_are() -> None:
    runs = [row([answer(seconds)]) for seconds in (0.1, 0.125, 0.08)]

    found = middle(runs)

    assert (found.slowest, found.rate, found.fastest) == pytest.approx((8, 10, 12.5))
    assert found.spread == pytest.approx(0.22, abs=0.001)


def test_a_second_turn_is_compared_with_the_first() -> None:
    """In each of two conversations, whose answers come one conversation after the other."""
    conversations = [
        answer(2),
        answer(5.5, started=5),
        answer(7, started=6),
        answer(4),
        answer(5, started=4),
        answer(9),
    ]

    assert second_turn(conversations, 2) == 1.0 / 4


def test_quiet_gaps_are_outside_the_window_when_all_have_begun() -> None:
    """A gap that reaches into the window is not quiet, even if it ends behind it."""
    early, late = answer(1, 2, 3, 4, 6, 9, 10, 10.5), answer(2, 3)
    early.window = late.window = (5, 8)

    assert quiet_gaps([early, late]) == [1, 1, 1, 0.5, 1]


def test_prompt_tokens_that_a_server_does_not_count_are_left_out() -> None:
    counted = answer(1)
    counted.num_prompt_tokens, counted.num_cached_tokens = 20, 5

    assert row([answer(1)]).computed is None
    assert row([counted]).computed == 15


def test_a_line_fits_under_the_head() -> None:
    """And into a terminal."""
    large = row([answer(100, 130)], "structured", 64, "llama-server (defaults)")._replace(of_ceiling=0.9, of_peer=10.0)

    assert len(line(large)) == len(HEAD) < 130


def test_conclusions_say_what_a_workload_is_about() -> None:
    turns = row([answer(2), answer(5.5, started=5), answer(7, started=6)], "turns")

    assert "0.25 of the first turn's time (target: 0.1)" in conclusions([turns])


def test_chats_that_were_over_when_the_long_prompt_came_say_nothing_about_gaps() -> None:
    over = answer(1, 2, 3)
    over.window = (5, 8)

    assert "over too soon" in conclusions([row([over], "long")])


def test_in_the_closed_loop_only_tokens_of_the_measured_time_count() -> None:
    """Of an answer that reaches beyond it as many as its texts within it, two tokens a text here."""
    within, across = answer(1, 2, 3, 4), answer(8, 9, 11, 12)
    for one in (within, across):
        one.window, one.num_tokens = (0, 10), 8

    assert row([within, across], "loop").rate == (8 + 4) / 10


def test_an_answer_that_was_cut_counts_with_what_the_others_have_for_each_text() -> None:
    over, cut = answer(1, 2), answer(3, 4, 5)
    over.num_tokens, cut.num_tokens, cut.is_cut = 4, 0, True
    over.window = cut.window = (0, 10)

    found = row([over, cut], "loop")

    assert (found.rate, found.answers, found.cut, found.failed) == ((4 + 6) / 10, 1, 1, 0)


def test_an_answer_that_never_began_waited_as_long_as_it_was_watched() -> None:
    """Left out, it would make a server look better the longer its queue is."""
    waiting = Answer(1.0, ended=9.0, is_cut=True, window=(0, 10))
    began = answer(2)
    began.window = (0, 10)

    assert row([began, waiting], "loop").first_p95 == 8000


def test_a_burst_says_when_all_had_begun() -> None:
    early, late = answer(1, 2), answer(4, 5)
    early.num_prompt_tokens = late.num_prompt_tokens = 100

    assert "all had begun after 4,000 ms, 50 prompt tokens/s" in conclusions([row([early, late])])


def test_servers_take_turns_in_both_directions() -> None:
    names = ["a", "b", "c"]

    assert [in_turn(names, number) for number in range(2)] == [["a", "b", "c"], ["c", "b", "a"]]


def test_the_peer_is_llama_server_in_its_best_mode() -> None:
    rows = [row([answer(1)], server=name)._replace(rate=rate) for name, rate in RATES.items()]

    assert [found.of_peer for found in compared(rows, [])] == [3.0, 0.5, 1.0]


RATES = {"this worker": 300.0, "llama-server -kvu": 50.0, "llama-server -bs": 100.0}


@pytest.mark.parametrize(("workloads", "length"), [(["loop"], 1536), (["equal"], 512), (["equal", "long"], 4096)])
def test_servers_have_room_for_the_longest_chat(workloads: list[str], length: int) -> None:
    """In streams of whole steps, and for an eighth more chats than run."""
    assert longest_chat(workloads, Shape()) == length
    assert room_for(length, 64) == 72 * length
