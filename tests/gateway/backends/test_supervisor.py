"""The loop that keeps a program running, with programs that end when a test says so and time that stands still."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from local_gateway.backends.local.supervisor import (
    GRACE,
    HEALTHY_SECONDS,
    LISTEN_SECONDS,
    MAX_MISSED,
    MAX_SILENT,
    MISSED_SECONDS,
    PROBE_SECONDS,
    WATCH_SECONDS,
    Look,
    Restarts,
    Supervisor,
)
from tests.waiting import eventually


class FakeProcess:
    """Runs until it is told to end."""

    pid = 1234

    def __init__(self) -> None:
        self.last_error_line = ""
        self.stops: list[float] = []
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, status: int, last_error_line: str = "") -> None:
        self.last_error_line = last_error_line
        self._end.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self._end)

    async def stop(self, grace: float) -> None:
        self.stops.append(grace)
        if not self._end.done():
            self._end.set_result(-15)


class Stage:
    """A supervisor, its processes in order of their start, and the pauses that it made between them."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.pauses: list[float] = []
        self.now = 0.0
        self.answers = False  # what the probe finds; else
        self.otherwise: Look = "starting"
        self.start_error: OSError | None = None
        self.is_held = False  # pauses do not end
        self.supervisor = Supervisor("worker", self._start, self._probe, sleep=self._sleep, clock=lambda: self.now)

    async def process(self, number: int = 0) -> FakeProcess:
        """The one of that start, when it has begun."""
        await eventually(lambda: len(self.processes) > number)
        return self.processes[number]

    async def _start(self) -> FakeProcess:
        if self.start_error:
            raise self.start_error
        self.processes.append(FakeProcess())
        return self.processes[-1]

    async def _probe(self) -> Look:
        return "ready" if self.answers else self.otherwise

    async def _sleep(self, seconds: float) -> None:
        if seconds not in (PROBE_SECONDS, WATCH_SECONDS, MISSED_SECONDS):
            self.pauses.append(seconds)
            if self.is_held:
                await asyncio.Event().wait()
        await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.supervisor.aclose()


def test_pauses_grow_and_are_forgiven() -> None:
    """A program that ends again and again is started ever more rarely, up to a limit, until it was well for long."""
    restarts = Restarts()

    assert [restarts.pause(0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.pause(HEALTHY_SECONDS - 1) == 30
    assert [restarts.pause(HEALTHY_SECONDS), restarts.pause(0)] == [0.5, 1]


async def test_nothing_runs_before_it_is_wanted(stage: Stage) -> None:
    """A supervisor that only exists has no process."""
    assert (stage.supervisor.is_started, stage.supervisor.is_ready, stage.supervisor.failure) == (False, False, None)
    assert not stage.processes


async def test_ready_waits_for_the_answer(stage: Stage) -> None:
    """A request that comes while the program starts is let through when it answers."""
    waiting = asyncio.create_task(stage.supervisor.ready())
    await stage.process()
    assert not stage.supervisor.is_ready

    stage.answers = True

    assert await waiting is None
    assert stage.supervisor.is_ready
    assert len(stage.processes) == 1


async def test_a_start_that_fails_is_told_to_all_who_wait(stage: Stage) -> None:
    """With the program's own words, and at once also to requests that come before the next start."""
    stage.is_held = True
    waiting = [asyncio.create_task(stage.supervisor.ready()) for _ in range(2)]
    (await stage.process()).end(1, "there is no such file.")

    reason = "it ended with status 1: there is no such file."
    assert [await task for task in waiting] == [reason, reason]
    assert await stage.supervisor.ready() == reason
    assert stage.supervisor.failure == reason


async def test_a_start_that_failed_is_tried_again(stage: Stage) -> None:
    """The file may be there by then; who asks now waits for this start."""
    stage.supervisor.start()
    (await stage.process()).end(1)
    await stage.process(1)

    waiting = asyncio.create_task(stage.supervisor.ready())
    stage.answers = True

    assert await waiting is None
    assert stage.pauses == [0.5]


async def test_a_crash_is_waited_out(stage: Stage) -> None:
    """A program that has answered before is given a second chance before a request fails."""
    stage.answers = True
    await stage.supervisor.ready()
    stage.answers = False
    (await stage.process()).end(-11)
    second = await stage.process(1)

    waiting = asyncio.create_task(stage.supervisor.ready())
    stage.answers = True

    assert await waiting is None
    assert second is stage.processes[-1]
    assert not second.stops


async def test_a_long_healthy_time_is_remembered(stage: Stage) -> None:
    """One crash a day is followed by a short pause each day."""
    stage.answers = True
    for number in range(3):
        await stage.supervisor.ready()
        stage.now += HEALTHY_SECONDS
        (await stage.process(number)).end(1)
        await stage.process(number + 1)

    assert stage.pauses == [0.5, 0.5, 0.5]


async def test_the_signal_that_ended_it_is_named(stage: Stage) -> None:
    """SIGKILL out of nowhere is how a machine without memory speaks."""
    stage.is_held = True
    stage.supervisor.start()
    (await stage.process()).end(-9)

    assert await stage.supervisor.ready() == "it ended with signal 9"


async def test_a_machine_that_has_no_room_for_a_process(stage: Stage) -> None:
    """Is tried again later like any other failure."""
    stage.is_held = True
    stage.start_error = BlockingIOError(11, "Resource temporarily unavailable")

    assert await stage.supervisor.ready() == "it cannot be started: Resource temporarily unavailable"


async def test_closing_stops_the_program(stage: Stage) -> None:
    """And tells the requests that still wait for it."""
    waiting = asyncio.create_task(stage.supervisor.ready())
    process = await stage.process()

    await stage.supervisor.aclose()

    assert process.stops == [GRACE]
    assert await waiting == "it has been stopped"
    assert not stage.supervisor.is_ready
    assert len(stage.processes) == 1


async def test_closing_in_a_pause(stage: Stage) -> None:
    """Nothing is started any more."""
    stage.is_held = True
    stage.supervisor.start()
    (await stage.process()).end(1)
    await eventually(lambda: stage.pauses == [0.5])

    await stage.supervisor.aclose()

    assert await stage.supervisor.ready() == "it has been stopped"
    assert len(stage.processes) == 1


async def test_one_who_stops_waiting_does_not_disturb_the_others(stage: Stage) -> None:
    """A client that leaves during a cold start takes nothing with it."""
    leaving, staying = (asyncio.create_task(stage.supervisor.ready()) for _ in range(2))
    await stage.process()

    leaving.cancel()
    await asyncio.wait({leaving})
    stage.answers = True

    assert await staying is None


# Hanging


async def test_program_that_hangs(stage: Stage) -> None:
    """It runs and does not answer: it is stopped and replaced, and calls wait for the next one."""
    stage.answers = True
    assert await stage.supervisor.ready() is None
    stage.answers = False
    replacement = await stage.process(1)
    waiting = asyncio.create_task(stage.supervisor.ready())
    stage.answers = True

    assert await waiting is None
    assert stage.processes[0].stops[0] == GRACE
    assert not replacement.stops


async def test_program_that_is_slow_now_and_then(stage: Stage) -> None:
    """Fewer missed looks in a row than MAX_MISSED are none."""
    looks: list[bool] = []
    stage.answers = True
    assert await stage.supervisor.ready() is None

    async def probe() -> Look:
        looks.append(len(looks) % MAX_MISSED == 0)
        return "ready" if looks[-1] else "silent"

    stage.supervisor._probe = probe
    await eventually(lambda: len(looks) > 20)

    assert len(stage.processes) == 1


def test_a_hanging_program_is_replaced_within_a_minute() -> None:
    """From its last answer, with probes that take their five seconds and a program that does not heed the signal."""
    probe_seconds = 5.0

    assert WATCH_SECONDS + MAX_MISSED * probe_seconds + (MAX_MISSED - 1) * MISSED_SECONDS + GRACE < 60


async def test_a_program_that_hangs_before_it_was_ever_ready(stage: Stage) -> None:
    """It takes questions and answers none: after a bounded time it is stopped, callers are told, and it is replaced."""
    stage.is_held = True
    stage.otherwise = "silent"
    waiting = asyncio.create_task(stage.supervisor.ready())
    process = await stage.process()

    assert "signal 15" in (await waiting or "")
    assert process.stops[0] == GRACE


async def test_a_program_that_says_that_it_is_starting_may_take_its_time(stage: Stage) -> None:
    """A model may take long to load; one missed answer in between is no hang."""
    waiting = asyncio.create_task(stage.supervisor.ready())
    process = await stage.process()
    for look in ("silent", "starting") * (MAX_SILENT + 3):
        stage.otherwise = look
        await asyncio.sleep(0)
    stage.answers = True

    assert await waiting is None
    assert not process.stops


@pytest.mark.parametrize("looks", [("closed",), ("closed", "silent"), ("closed", "starting")])
async def test_a_program_that_never_listens(stage: Stage, looks: tuple[Look, ...]) -> None:
    """Nothing listens where it should: it is stopped after a time, callers are told why, and it is replaced.

    One that was heard meanwhile has that time anew.
    """
    stage.is_held = True
    waiting = asyncio.create_task(stage.supervisor.ready())
    process = await stage.process()
    for look in looks * 3:
        stage.otherwise = look
        stage.now += LISTEN_SECONDS - 1.0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    stage.otherwise = "closed"
    assert bool(process.stops) == (looks == ("closed",))

    stage.now += LISTEN_SECONDS + 1.0

    assert await waiting == "it does not listen within 120 s: it ended with signal 15"
    assert process.stops[0] == GRACE
    await eventually(lambda: stage.pauses == [0.5])


async def test_a_program_that_listens_late(stage: Stage) -> None:
    """Within its time is soon enough."""
    waiting = asyncio.create_task(stage.supervisor.ready())
    process = await stage.process()
    stage.otherwise = "closed"
    stage.now += LISTEN_SECONDS - 1.0
    await asyncio.sleep(0)
    stage.otherwise = "starting"
    await asyncio.sleep(0)
    stage.now += 10 * LISTEN_SECONDS  # the model loads
    await asyncio.sleep(0)
    stage.answers = True

    assert await waiting is None
    assert not process.stops
