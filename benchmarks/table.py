"""Rows as text, in less than 130 columns, and what they say in a sentence each."""

import math
from collections.abc import Iterable

from benchmarks.ceiling import Ceiling
from benchmarks.row import Row
from benchmarks.servers import LLAMA_SERVER, WORKER
from benchmarks.workloads import BURSTS

SECOND_TURN_TARGET = 0.1
LONG_PROMPT_TARGETS = {32: 1.7, 64: 1.5}  # by the number of chats
HEAD = (
    f"{'workload':10}{'chats':>5}  {'server':23}{'tokens/s':>9}{'spread':>7}{'/ceiling':>9}{'/llama-s':>9}"
    f"{'first p50':>10}{'p95':>7}{'gap p50':>8}{'p95':>7}{'p99':>7}{'answers':>8}{'failed':>7}\n"
)


def line(row: Row) -> str:
    rates = f"{row.rate:>9.1f}{_percent(row.spread):>7}{_ratio(row.of_ceiling):>9}{_ratio(row.of_peer):>9}"
    times = f"{row.first_p50:>10.0f}{row.first_p95:>7.0f}{row.gap_p50:>8.1f}{row.gap_p95:>7.1f}{row.gap_p99:>7.1f}"
    return f"{row.workload:10}{row.concurrency:>5}  {row.server:23}{rates}{times}{row.answers:>8}{row.failed:>7}\n"


def ceiling_line(ceiling: Ceiling) -> str:
    return f"{ceiling.workload:10}{ceiling.concurrency:>5}  {f'ceiling, {ceiling.mode}':23}{ceiling.whole:>9.1f}\n"


def conclusions(rows: list[Row]) -> str:
    """In sentences: this worker's ratios over all loads, and what a workload is about."""
    ours = [row for row in rows if row.server == WORKER]
    sentences = [
        _range(f"of the tokens/s of {LLAMA_SERVER}'s best mode here", (row.of_peer for row in ours)),
        _range("of the ceiling's tokens/s", (row.of_ceiling for row in ours)),
        *map(_burst, rows),
        *map(_second_turn, rows),
        *map(_long_prompt, rows),
        *map(_shared, rows),
    ]
    return "".join(f"{sentence}\n" for sentence in sentences if sentence)


def _range(what: str, ratios: Iterable[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{WORKER}: {min(known):.2f} to {max(known):.2f} {what}" if known else ""


def _burst(row: Row) -> str:
    if row.workload not in BURSTS or row.computed is None or math.isnan(row.first_last):
        return ""
    return (
        f"{_name(row)}: all had begun after {row.first_last:,.0f} ms, "
        f"{1000 * row.computed / row.first_last:,.0f} prompt tokens/s till then"
    )


def _second_turn(row: Row) -> str:
    if row.second_turn is None:
        return ""
    return (
        f"{_name(row)}: a second turn's first text comes after {row.second_turn:.2f} of the first turn's time "
        f"(target: {SECOND_TURN_TARGET:g})"
    )


def _long_prompt(row: Row) -> str:
    if row.quiet_p95 is None:
        return ""
    if math.isnan(row.gap_p95 / row.quiet_p95):
        return (
            f"{_name(row)}: the running chats were over too soon to compare their gaps; more --tokens make them longer"
        )
    return (
        f"{_name(row)}: gap p95 {row.gap_p95:.1f} ms while the long prompt comes, {row.quiet_p95:.1f} otherwise, "
        f"{row.gap_p95 / row.quiet_p95:.2f} times (target: {LONG_PROMPT_TARGETS.get(row.concurrency, 1.7):g})"
    )


def _shared(row: Row) -> str:
    if row.workload != "shared" or row.computed is None:
        return ""
    return f"{_name(row)}: {row.computed:,} prompt tokens computed"


def _name(row: Row) -> str:
    return f"{row.workload}, {row.concurrency} at once, {row.server}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(spread: float) -> str:
    """Of one run there is none."""
    return f"±{100 * spread:.1f}%" if spread else ""
