"""One child process: its lines as they come, the line that says why it ended, and its end."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import local_gateway

PACKAGES = Path(local_gateway.__file__).parents[
    1
]  # where the child finds this project's packages, whatever its folder is
DIE_WITH_PARENT = "local_gateway.backends.local.die_with_parent"
MAX_LINE_BYTES = 4000  # longer lines are shown in parts
NUM_LAST_LINES = 20
READ_SECONDS = 1.0  # for its last lines, which are there when it has ended
ERROR = "error: "  # with which this project's programs begin the line that says why they end


class Child:
    """A running process, which ends when this one does. Knows nothing about why it runs or whether it should again.

    `on_line` is called with every line of its standard error; its standard output is not read. It has a session of
    its own, so that Ctrl-C in the terminal reaches the gateway alone, which then ends it in order.
    """

    def __init__(self, process: Process, stderr: BinaryIO, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._reading = asyncio.create_task(self._read(stderr))

    @classmethod
    async def start(cls, command: Sequence[str], environ: Mapping[str, str], on_line: Callable[[str], None]) -> "Child":
        """Raises OSError if there can be no further process."""
        # A pipe of our own: asyncio counts a process as running while any process, such as its child, holds asyncio's.
        readable, writable = os.pipe()
        stderr = os.fdopen(readable, "rb")
        path = os.pathsep.join(filter(None, (str(PACKAGES), environ.get("PYTHONPATH"))))
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", DIE_WITH_PARENT, str(os.getpid()), *command),
                env={**environ, "PYTHONPATH": path},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=writable,
                start_new_session=True,
            )
        except BaseException:
            stderr.close()
            raise
        finally:
            os.close(writable)
        return cls(process, stderr, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_error_line(self) -> str:
        """Why it ended, as far as it says so: one line, or empty."""
        for line in reversed(self._last_lines):
            if line.startswith(ERROR):
                return line.removeprefix(ERROR)
        return self._last_lines[-1] if self._last_lines else ""

    async def wait(self) -> int:
        """Its exit status, when it and all that it started are gone. Negative: the signal that ended it."""
        status = await self._process.wait()
        self._kill()
        await asyncio.wait({self._reading}, timeout=READ_SECONDS)
        if self._reading.cancel():
            await asyncio.wait({self._reading})
        return status

    async def stop(self, grace: float) -> None:
        """Ask it to end; after `grace` seconds make it. Returns when it and all that it started are gone."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        finally:
            self._kill()
        await self.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read(self, stderr: BinaryIO) -> None:
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), stderr)
        try:
            await self._read_lines(lines)
        finally:
            transport.close()

    async def _read_lines(self, stderr: asyncio.StreamReader) -> None:
        rest = b""
        while piece := await stderr.read(MAX_LINE_BYTES):
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            self._show(lines)
        self._show([rest])

    def _show(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                self._last_lines.append(text)
                self._on_line(text)
