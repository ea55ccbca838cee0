"""A worker's container: a process and all its children, which live and die together.

The SDK pings from a child process. In a container it dies with its parent; here the process group is what dies.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

MAX_LINE_BYTES = 1 << 20


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self.pid = process.pid
        self._process = process
        self._on_line = on_line

    @classmethod
    async def start(
        cls, command: Sequence[str], env: Mapping[str, str], on_line: Callable[[str], None]
    ) -> "WorkerProcess":
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # a process group of its own
        )
        return cls(process, on_line)

    async def run(self) -> int:
        """Hand on what it prints until it ends; then end what is left of the container. Returns its exit code."""
        reading = asyncio.create_task(self._read())
        await self._exited()
        self.kill()
        await reading
        return await self._process.wait()

    async def _exited(self) -> None:
        """The process itself: asyncio's wait() also waits for the children, who keep its output open."""
        exited = asyncio.Event()
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(handle, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._on_line(line.decode("utf-8", "replace").rstrip("\n"))

    def terminate(self) -> None:
        """As a container is stopped: only its first process is told."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        self._signal_all(signal.SIGKILL)

    def freeze(self) -> None:
        """What FlashBoot does to an idle container [ISS]."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
