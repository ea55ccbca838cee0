"""A client that disconnects cancels its request."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from local_gateway.edge.request import ClientLeftError


class DisconnectWatch:
    """A context that raises ClientLeftError, wherever it is, when the client hangs up. The body has been read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_left = False
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._task
        self._watching.cancel()
        del self._watching  # a cancelled task holds its frames: as a cycle they would wait for the collector
        self._task = None
        if self._has_left and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientLeftError from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()

    def leave(self) -> None:
        """End it as if the client had hung up. After the end it does nothing."""
        if self._task is not None:
            self._has_left = True
            self._task.cancel()
