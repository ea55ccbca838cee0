"""A program in a terminal of its own, and what a person sees there."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until a test that waits fails
CTRL_C, CTRL_D = "\x03", "\x04"
SIZE = struct.pack("HHHH", 40, 100, 0, 0)  # lines and columns
# Makes the terminal its own, so that the keys Ctrl-C in it send a signal to this program and those it starts.
IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ESCAPE = re.compile(r"\x1b(\[[?\d;]*([A-Za-z]|$)|$)")
CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def screen(output: str) -> list[str]:
    """The lines that output leaves in a terminal that is high enough, without empty ones at the end."""
    lines, row, column = [""], 0, 0
    for match in CONTROL.finditer(output):
        token, argument, action = match[0], match[1], match[2]
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif action == "A":
            row = max(0, row - int(argument or 1))
        elif action == "K":
            lines[row] = "" if argument == "2" else lines[row][:column]
        elif action is None:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")


@dataclass(eq=False)
class Terminal:
    """What was started, and all that it has written."""

    process: subprocess.Popen[bytes]
    master: int
    output: str = ""
    _num_seen: int = 0

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    async def until(self, text: str, unless: str = "") -> None:
        """Returns when this has been written, after what the last call waited for. Colours do not count.

        Fails at once where `unless` is written first, or the program has ended.
        """
        deadline = time.monotonic() + PATIENCE
        has_ended = False
        while (found := self.read().find(text, self._num_seen)) < 0:
            is_hopeless = has_ended or (unless and self.output.find(unless, self._num_seen) >= 0)
            assert not is_hopeless, f"{text!r} will not come:\n{self.output}"
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.output}"
            has_ended = self.process.poll() is not None  # and is read once more
            await asyncio.sleep(0.01)
        self._num_seen = found + len(text)

    async def end(self) -> int:
        """Its exit status, when it has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, f"it does not end:\n{self.output}"
            await asyncio.sleep(0.01)
        self.read()
        return self.process.returncode

    def read(self) -> str:
        """All that has been written, as plain text. The other side may be closed: then there is no more."""
        with suppress(OSError):
            while piece := os.read(self.master, 65536):
                self.output += piece.decode(errors="replace")
        return ESCAPE.sub("", self.output)


@contextmanager
def in_terminal(command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> Iterator[Terminal]:
    """The program, until the end of the block at most."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, SIZE)
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *command], stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=env
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
