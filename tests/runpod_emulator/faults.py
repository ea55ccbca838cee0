"""What goes wrong on purpose: slow, refused, broken-off and unanswered calls.

A fault is about one kind of call, named as in the route tables: "job-done", "job-stream", "run", ...
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from .events import EventLog

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, eq=False)
class Fault:
    """With a status the call is answered so; with `drops` its connection is closed; with neither it is only late.

    "before" the platform has acted on the call, or "after" it: then only the answer is lost.
    """

    call: str
    status: int | None = None
    drops: bool = False
    when: Literal["before", "after"] = "before"
    latency: float = 0.0  # real seconds
    gate: asyncio.Event | None = None  # the call waits for it
    probability: float = 1.0
    num_times: int | None = None  # None: for good
    path_part: str = ""  # only for calls whose path has this in it, a job's id for example
    num_applied: int = field(default=0, init=False)

    def matches(self, call: str, path: str) -> bool:
        is_over = self.num_times is not None and self.num_applied >= self.num_times
        return call == self.call and self.path_part in path and not is_over


class Faults:
    def __init__(self, log: EventLog, seed: int = 0) -> None:
        self._log = log
        self._random = random.Random(seed)
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        self._faults.clear()

    async def apply(self, call: str, request: web.Request, act: Next) -> web.StreamResponse:
        """Let the platform act on the call, with what is to go wrong."""
        failing: Fault | None = None
        for fault in self._faults:
            if failing is None and fault.matches(call, request.path) and self._random.random() < fault.probability:
                fault.num_applied += 1
                await self._delay(fault, call)
                failing = fault if fault.status or fault.drops else None
        if failing is None:
            return await act(request)
        self._log.note("fault", detail=f"{call} {failing.status or 'dropped'} {failing.when}")
        if failing.when == "after":
            await act(request)
        return self._fail(failing, request)

    async def _delay(self, fault: Fault, call: str) -> None:
        await asyncio.sleep(fault.latency)
        if fault.gate is not None:
            self._log.note("held", detail=call)
            await fault.gate.wait()

    def _fail(self, fault: Fault, request: web.Request) -> web.Response:
        if fault.drops and request.transport is not None:
            request.transport.abort()
        return web.json_response({"error": "a fault of the emulator"}, status=fault.status or 500)
