"""Keeps one program running: starts it, waits until it answers, starts it again when it ends or hangs.

The program tells how it is by a probe, which the owner brings along. Which program it is, and what is asked of it when
it answers, is not known here.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5  # seconds before a program is started again
MAX_PAUSE = 30.0
HEALTHY_SECONDS = 60.0  # after which its past is forgotten
PROBE_SECONDS = 0.1  # between two looks at a program that starts
WATCH_SECONDS = 10.0  # between two looks at a program that runs
MISSED_SECONDS = 5.0  # after a look that it did not answer
MAX_MISSED = 3  # in a row: it hangs. With probes of 5 s and the grace it is replaced within a minute
MAX_SILENT = 12  # likewise before it ever answered: loading a model may keep it busy. Within a minute or two
LISTEN_SECONDS = 120.0  # in which a program listens; what it needs for its work may take longer
GRACE = 10.0  # seconds between the request to end and the end


# What a probe finds: a program that answers, one that says that it is not so far, one that takes a question and says
# nothing, or one that takes none: nothing listens at its address.
Look = Literal["ready", "starting", "silent", "closed"]


class Process(Protocol):
    """What `Child` does."""

    @property
    def pid(self) -> int: ...

    @property
    def last_error_line(self) -> str: ...

    async def wait(self) -> int: ...

    async def stop(self, grace: float) -> None: ...


class Restarts:
    """How long to wait before each new start: twice as long each time, unless it was well in between. Pure."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def pause(self, healthy_seconds: float) -> float:
        """After a run that was ready for so many seconds; 0 if it never was."""
        if healthy_seconds >= HEALTHY_SECONDS:
            self._pause = FIRST_PAUSE
        pause, self._pause = self._pause, min(2 * self._pause, MAX_PAUSE)
        return pause


class Supervisor:
    """The loop around one program.

    Owns the process from its start to its end. Lives in one event loop, whose clock and sleep tests may replace. Knows
    nothing of HTTP and models; raises nothing that has to do with the program.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Process]],
        probe: Callable[[], Awaitable[Look]],
        *,
        listen_seconds: float = LISTEN_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._start = start
        self._probe = probe
        self._listen_seconds = listen_seconds
        self._sleep = sleep
        self._clock = clock
        self._restarts = Restarts()
        self._running: asyncio.Task[None] | None = None
        # Of the present start: None when the program answers, or why it does not. Between a start that failed and the
        # next one it keeps the reason, so that no call waits for what will hardly become better.
        self._outcome: asyncio.Future[str | None] | None = None

    @property
    def is_started(self) -> bool:
        return self._running is not None

    @property
    def is_ready(self) -> bool:
        return self._outcome is not None and self._outcome.done() and self._outcome.result() is None

    @property
    def failure(self) -> str | None:
        """Why the last start failed, until the next one begins."""
        return self._outcome.result() if self._outcome is not None and self._outcome.done() else None

    def start(self) -> None:
        """Begin, unless that has been done."""
        if self._running is None:
            self._outcome = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._keep_running())

    async def ready(self) -> str | None:
        """Returns None when the program answers, or why it cannot be started. Started if it was not."""
        self.start()
        assert self._outcome is not None
        assert self._running is not None
        outcome = self._outcome
        either: set[asyncio.Future[Any]] = {outcome, self._running}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            self._running.result()  # raises what ended the loop, which only a mistake here can be
        return outcome.result()

    async def aclose(self) -> None:
        """Stop the program, and return when it is gone."""
        if self._running is None or self._outcome is None:
            return
        self._begin()
        self._outcome.set_result("it has been stopped")
        self._running.cancel()
        await asyncio.wait({self._running})

    async def _keep_running(self) -> None:
        while True:
            healthy_seconds = await self._run_once()
            pause = self._restarts.pause(healthy_seconds)
            log.info("%s: started again in %.1f s", self._name, pause)
            await self._sleep(pause)
            self._begin()

    def _begin(self) -> None:
        """A call from now on waits for the coming start."""
        assert self._outcome is not None
        if self._outcome.done():
            self._outcome = asyncio.get_running_loop().create_future()

    async def _run_once(self) -> float:
        """From start to end; for how long it was ready. Never raises what has to do with the program."""
        try:
            process = await self._start()
        except OSError as error:
            self._failed(f"it cannot be started: {error.strerror}")
            return 0.0
        log.info("%s: started, process %d", self._name, process.pid)
        try:
            ended = asyncio.create_task(process.wait())
            fault = await self._until_ready(ended)
            ready_since = self._clock() if fault is None else None
            if fault is None and await self._hangs(ended):
                fault = "it does not answer any more"
                self._begin()
            if not ended.done():
                log.error("%s: %s, and is stopped", self._name, fault)
                await process.stop(GRACE)
            status = await ended
        finally:
            ended.cancel()
            await process.stop(GRACE)
        return self._ended(process, status, ready_since, fault)

    async def _until_ready(self, ended: asyncio.Task[int]) -> str | None:
        """None: it is ready. Else what is wrong with it, or nothing because it has ended."""
        num_silent, deadline = 0, self._clock() + self._listen_seconds
        while not ended.done():
            look = await self._probe()
            num_silent = num_silent + 1 if look == "silent" else 0
            if look != "closed":
                deadline = self._clock() + self._listen_seconds
            if look == "ready":
                assert self._outcome is not None
                self._outcome.set_result(None)
                log.info("%s: ready", self._name)
                return None
            if num_silent >= MAX_SILENT:
                return "it does not answer"
            if self._clock() >= deadline:
                return f"it does not listen within {self._listen_seconds:g} s"
            await self._sleep(PROBE_SECONDS)
        return ""

    async def _hangs(self, ended: asyncio.Task[int]) -> bool:
        """Look at a program that was ready until it ends by itself (False) or does not answer any more (True)."""
        num_missed = 0
        while num_missed < MAX_MISSED:
            sleeping = asyncio.ensure_future(self._sleep(MISSED_SECONDS if num_missed else WATCH_SECONDS))
            try:
                await asyncio.wait({ended, sleeping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
            if ended.done():
                return False
            num_missed = 0 if await self._probe() == "ready" else num_missed + 1
        return not ended.done()

    def _ended(self, process: Process, status: int, ready_since: float | None, fault: str | None) -> float:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        reason = f"it ended with {how}" + (f": {process.last_error_line}" if process.last_error_line else "")
        if fault:
            reason = f"{fault}: {reason}"
        if ready_since is None:
            self._failed(reason)
            return 0.0
        log.error("%s: %s", self._name, reason)
        self._begin()
        return self._clock() - ready_since

    def _failed(self, reason: str) -> None:
        log.error("%s: %s", self._name, reason)
        assert self._outcome is not None
        self._outcome.set_result(reason)
