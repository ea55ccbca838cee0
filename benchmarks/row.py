"""One server under one load, as its clients saw it."""

from typing import NamedTuple

from benchmarks.client import Answer
from benchmarks.ratios import percentile, quiet_gaps, second_turn


class Row(NamedTuple):
    """The run in the middle of a few by tokens/s, of two the faster. Times are in milliseconds."""

    workload: str
    concurrency: int
    server: str
    rate: float  # tokens/s
    first_p50: float
    first_p95: float
    gap_p50: float
    gap_p95: float
    computed: int | None  # prompt tokens; None from a server that does not count them
    failed: int
    memory: float  # MB
    slowest: float  # tokens/s of all runs
    fastest: float
    of_ceiling: float | None = None
    of_peer: float | None = None
    second_turn: float | None = None  # its first text over the first turn's, in time
    quiet_p95: float | None = None  # gaps while no long prompt is on its way

    @property
    def spread(self) -> float:
        """How far the runs are from their middle, as a part of it: 0.05 is ±5 %. 0 where all of them failed."""
        return (self.fastest - self.slowest) / (self.fastest + self.slowest) if self.fastest else 0.0


def summarise(workload: str, concurrency: int, server: str, memory: float, answers: list[Answer]) -> Row:
    good = [answer for answer in answers if not answer.error and answer.arrivals]
    seconds = max(answer.ended for answer in answers) - min(answer.started for answer in answers)
    rate = sum(answer.num_tokens for answer in good) / seconds
    firsts = [1000 * answer.first for answer in good]
    gaps = [1000 * gap for answer in good for gap in answer.gaps]
    counted = [answer.num_prompt_tokens - answer.num_cached_tokens for answer in good if answer.num_prompt_tokens]
    return Row(
        workload,
        concurrency,
        server,
        rate,
        percentile(firsts, 0.5),
        percentile(firsts, 0.95),
        percentile(gaps, 0.5),
        percentile(gaps, 0.95),
        sum(counted) if counted else None,
        len(answers) - len(good),
        memory,
        slowest=rate,
        fastest=rate,
        second_turn=second_turn(answers, concurrency) if workload == "turns" else None,
        quiet_p95=1000 * percentile(quiet_gaps(good), 0.95) if workload == "long" else None,
    )


def middle(rows: list[Row]) -> Row:
    """Of some runs of the same, with how far apart they were."""
    ordered = sorted(rows, key=lambda row: row.rate)
    return ordered[len(rows) // 2]._replace(slowest=ordered[0].rate, fastest=ordered[-1].rate)
