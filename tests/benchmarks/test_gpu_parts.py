"""benchmarks/gpu.sh: what each part runs, with a program in Python's place that notes its arguments."""

import argparse
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import ceiling, cost, seeded, start, step, throughput

ROOT = Path(__file__).parents[2]
PARSERS: dict[str, Callable[[list[str]], argparse.Namespace]] = {
    "throughput": throughput.parse,
    "ceiling": ceiling.parse,
    "cost": cost.parse,
    "seeded": seeded.parse,
    "start": start.parse,
    "step": step.parse,
}
ALL = [
    *(
        "ceilings",
        "loop8",
        "loop32",
        "loop64",
        "ours8",
        "ours32",
        "ours64",
        "one",
        "python",
        "defaults32",
        "defaults64",
    ),
    *("equal", "unequal", "long", "steps", "whole", "unified", "start", "turns", "shared", "structured", "seeded"),
    *("exact", "cost"),
]
FAKE = """#!/bin/bash
printf '%s\\0' "$@" >> "$NOTES"
printf '\\n' >> "$NOTES"
exit ${STATUS:-0}
"""

Command = tuple[str, argparse.Namespace]


def run(folder: Path, *parts: str, **environment: str) -> tuple[int, str, list[Command]]:
    """Its status, what it printed, and which programs it ran with what."""
    python, notes = folder / "python", folder / "notes"
    python.write_text(FAKE)
    python.chmod(0o755)
    notes.touch()
    ours = {
        "PATH": os.environ["PATH"],
        "NOTES": str(notes),
        "PYTHON": str(python),
        "OUT": str(folder),
        "MODEL": "m.gguf",
    }
    done = subprocess.run(
        [ROOT / "benchmarks/gpu.sh", *parts], env=ours | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr, [parsed(line) for line in notes.read_text().splitlines()]


def parsed(line: str) -> Command:
    words = line.split("\0")[:-1]
    if words[0] == "-m":
        words = words[1:]
    name = Path(words[0].replace("benchmarks.", "")).stem
    return name, PARSERS[name](words[1:])


def test_every_part_is_a_command_that_its_program_understands(tmp_path: Path) -> None:
    status, said, commands = run(tmp_path, *ALL)

    assert status == 0
    assert len(commands) == len(ALL)
    assert all(f"== {part}: " in said for part in ALL)


def test_the_parts_without_a_name_are_the_headline_and_its_peers(tmp_path: Path) -> None:
    _, _, commands = run(tmp_path)

    loops = [args for name, args in commands if name == "throughput" and args.workloads == ["loop"]]
    assert {number for args in loops for number in args.concurrency} == {8, 32, 64}
    assert {server for args in loops for server in args.servers} == {
        *("this worker", "llama-server -bs", "llama-server -kvu"),
        *("this worker (defaults)", "llama-server (defaults)"),
    }
    assert {name for name, _ in commands} == {"ceiling", "throughput", "step"}


def test_a_part_is_repeated_in_turns_when_asked(tmp_path: Path) -> None:
    _, _, commands = run(tmp_path, "loop64", REPEAT="2")

    ((_, args),) = commands
    assert (args.repeat, args.concurrency, args.chats) == (2, [64], 64)


def test_a_part_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    status, said, commands = run(tmp_path, "loop8", "steps", STATUS="3")

    assert status == 1
    assert len(commands) == 2
    assert "not whole: loop8 steps" in said


@pytest.mark.parametrize("part", ["loop", "LOOP8", "8"])
def test_a_part_that_is_unknown_is_refused(part: str, tmp_path: Path) -> None:
    """Before a machine's time is spent on the others."""
    status, said, commands = run(tmp_path, "steps", part)

    assert (status, commands) == (2, [])
    assert f"no part {part}" in said
