"""A picture of what throughput.py has measured: python benchmarks/plot.py rows.json picture.png

Tokens/s and the time to the first text over the number of chats, a pair of panels for each workload. Reads the JSON and
knows nothing else; needs matplotlib, which benchmarks/peers.sh installs in an environment of its own.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

COLOURS = {
    "this worker": "#c2410c",
    "this worker (defaults)": "#f59e0b",
    "llama-server -bs": "#1d4ed8",
    "llama-server -kvu": "#0e7490",
    "llama-server (defaults)": "#7c3aed",
    "llama-cpp-python": "#4d7c0f",
}
OTHER = "#6b7280"
INK, GRID = "#1f2937", "#e5e7eb"
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold", "color": INK, "pad": 12}
LABEL_DISTANCE = 0.06  # of two labels, as a part of an axis
PANEL_INCHES = (5.7, 4.0)

Rows = list[dict[str, Any]]
Points = list[tuple[float, float]]


def draw(results: dict[str, Any]) -> Figure:
    rows: Rows = results["rows"]
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure = Figure(figsize=(2 * PANEL_INCHES[0], PANEL_INCHES[1] * len(workloads) + 0.9), layout="constrained")
    panels = figure.subplots(len(workloads), 2, squeeze=False)
    for (rates, firsts), workload in zip(panels, workloads, strict=True):
        some = [row for row in rows if row["workload"] == workload]
        draw_rates(rates, some, best_ceilings(results["ceilings"], workload))
        draw_firsts(firsts, some)
        rates.set_title(f"{workload}: tokens/s", **TITLE)
        firsts.set_title(f"{workload}: seconds to the first text, median, log scale", **TITLE)
    caption(figure, results["circumstances"], results["shape"])
    return figure


def best_ceilings(ceilings: Rows, workload: str) -> dict[int, float]:
    """Of llama-batched-bench's two modes the better, by the number of chats."""
    found: dict[int, float] = {}
    for row in ceilings:
        if row["workload"] == workload:
            found[row["concurrency"]] = max(row["whole"], found.get(row["concurrency"], 0.0))
    return found


def draw_rates(axes: Axes, rows: Rows, ceilings: dict[int, float]) -> None:
    lines = {server: (COLOURS.get(server, OTHER), points(rows, server, "rate")) for server in servers(rows)}
    if ceilings:
        known = sorted(ceilings.items())
        axes.plot(*zip(*known, strict=True), color=INK, linestyle="--", linewidth=1.2)
        lines["ceiling (llama.cpp alone)"] = (INK, [(float(number), rate) for number, rate in known])
    for server in servers(rows):
        low, high = (dict(points(rows, server, end)) for end in ("slowest", "fastest"))
        axes.fill_between(
            list(low), list(low.values()), list(high.values()), color=COLOURS.get(server, OTHER), alpha=0.15
        )
    plot_lines(axes, {name: line for name, line in lines.items() if name in servers(rows)})
    axes.set_ylim(0, 1.08 * max(y for _, line in lines.values() for _, y in line))
    finish(axes, rows)
    label(axes, lines)


def draw_firsts(axes: Axes, rows: Rows) -> None:
    lines = {
        server: (COLOURS.get(server, OTHER), [(x, y / 1000) for x, y in points(rows, server, "first_p50")])
        for server in servers(rows)
    }
    plot_lines(axes, lines)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    finish(axes, rows)
    label(axes, lines)


def plot_lines(axes: Axes, lines: dict[str, tuple[str, Points]]) -> None:
    for colour, line in reversed(lines.values()):  # this worker, the first, on top
        axes.plot(*zip(*line, strict=True), color=colour, marker="o", markersize=4, linewidth=1.8)


def finish(axes: Axes, rows: Rows) -> None:
    numbers = sorted({row["concurrency"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers], minor=False)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("chats at once", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def label(axes: Axes, lines: dict[str, tuple[str, Points]]) -> None:
    """Each line's name at its right end."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted((to_axes.transform(line[-1])[1], name, colour) for name, (colour, line) in lines.items())
    places = apart([height for height, _, _ in ends], LABEL_DISTANCE)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        axes.text(1.02, place, name, transform=axes.transAxes, color=colour, va="center", fontsize=9.5)


def apart(heights: list[float], distance: float) -> list[float]:
    """As near to the heights, which rise, as labels can be that do not cover each other."""
    places = list(heights)
    for _ in range(100):
        for below, above in pairwise(range(len(places))):
            lack = max(0.0, distance - (places[above] - places[below]))
            places[below] -= lack / 2
            places[above] += lack / 2
    return places


def servers(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["server"] for row in rows))


def points(rows: Rows, server: str, what: str) -> Points:
    return [(row["concurrency"], row[what]) for row in rows if row["server"] == server]


def caption(figure: Figure, where: dict[str, str], shape: dict[str, Any]) -> None:
    sizes = f"loop: {shape['seconds']:g} s of log-normal lengths; equal: {shape['prompt']} + {shape['tokens']} tokens"
    figure.suptitle(
        f"{where['model']}; {sizes}\n{where['machine']}\nllama-cpp-python {where['llama_cpp_python']}; {where['date']}",
        x=0.01,
        ha="left",
        fontsize=9.5,
        color=INK,
    )


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text())).savefig(target, dpi=150)


if __name__ == "__main__":
    main()
