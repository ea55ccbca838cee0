"""One server under one load, as its clients saw it."""

from typing import NamedTuple

from benchmarks.client import Answer
from benchmarks.ratios import percentile, quiet_gaps, second_turn

LOOP = "loop"  # the workload that is measured for a time; all others are, from the first question to the last token


class Row(NamedTuple):
    """The run in the middle of a few by tokens/s, of two the faster. Times are in milliseconds."""

    workload: str
    concurrency: int
    server: str
    rate: float  # tokens/s
    first_p50: float
    first_p95: float
    first_last: float  # of the answer that waited longest: from then on all had begun
    gap_p50: float
    gap_p95: float
    gap_p99: float
    answers: int  # read to their end
    cut: int  # not over when the measurement was; their tokens in the measured time count
    computed: int | None  # prompt tokens; None from a server that does not count them
    failed: int
    memory: float  # MB
    slowest: float  # tokens/s of all runs
    fastest: float
    of_ceiling: float | None = None
    of_peer: float | None = None  # of llama-server in the best of its measured modes
    second_turn: float | None = None  # its first text over the first turn's, in time
    quiet_p95: float | None = None  # gaps while no long prompt is on its way

    @property
    def spread(self) -> float:
        """How far the runs are from their middle, as a part of it: 0.05 is ±5 %. 0 where all of them failed."""
        return (self.fastest - self.slowest) / (self.fastest + self.slowest) if self.fastest else 0.0


def summarise(workload: str, concurrency: int, server: str, memory: float, answers: list[Answer]) -> Row:
    good = [answer for answer in answers if not answer.error and (answer.arrivals or answer.is_cut)]
    rate = rate_in_window(good) if workload == LOOP else rate_to_the_end(good, answers)
    firsts = [1000 * waited(answer) for answer in good]
    gaps = [1000 * gap for answer in good for gap in answer.gaps]
    counted = [answer.num_prompt_tokens - answer.num_cached_tokens for answer in good if answer.num_prompt_tokens]
    return Row(
        workload,
        concurrency,
        server,
        rate,
        percentile(firsts, 0.5),
        percentile(firsts, 0.95),
        percentile(firsts, 1.0),
        percentile(gaps, 0.5),
        percentile(gaps, 0.95),
        percentile(gaps, 0.99),
        sum(not answer.is_cut for answer in good),
        sum(answer.is_cut for answer in good),
        sum(counted) if counted else None,
        len(answers) - len(good),
        memory,
        slowest=rate,
        fastest=rate,
        second_turn=second_turn(answers, concurrency) if workload == "turns" else None,
        quiet_p95=1000 * percentile(quiet_gaps(good), 0.95) if workload == "long" else None,
    )


def rate_to_the_end(good: list[Answer], answers: list[Answer]) -> float:
    """Tokens/s from the first question to the last token."""
    seconds = max(answer.ended for answer in answers) - min(answer.started for answer in answers)
    return sum(answer.num_tokens for answer in good) / seconds


def rate_in_window(answers: list[Answer]) -> float:
    """Tokens/s within the measured time. An answer's tokens are spread over its texts evenly; one that was cut, whose
    tokens no server has counted, has as many for each text as the others."""
    over = [answer for answer in answers if not answer.is_cut]
    num_texts = sum(len(answer.arrivals) for answer in over)
    tokens_a_text = sum(answer.num_tokens for answer in over) / num_texts if num_texts else 1.0
    return sum(_tokens_in_window(answer, tokens_a_text) for answer in answers) / seconds_of(answers)


def _tokens_in_window(answer: Answer, tokens_a_text: float) -> float:
    if not answer.arrivals:
        return 0.0
    begin, end = answer.window
    within = sum(begin <= arrival <= end for arrival in answer.arrivals)
    return within * (tokens_a_text if answer.is_cut else answer.num_tokens / len(answer.arrivals))


def seconds_of(answers: list[Answer]) -> float:
    """Of the window that these answers share."""
    begin, end = answers[0].window if answers else (0.0, 1.0)
    return end - begin


def waited(answer: Answer) -> float:
    """Seconds to the first text. An answer cut before it waited at least so long."""
    return answer.first if answer.arrivals else answer.whole


def middle(rows: list[Row]) -> Row:
    """Of some runs of the same, with how far apart they were."""
    ordered = sorted(rows, key=lambda row: row.rate)
    return ordered[len(rows) // 2]._replace(slowest=ordered[0].rate, fastest=ordered[-1].rate)
