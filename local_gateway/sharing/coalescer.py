"""Identical requests in flight share one call: each gets the answer from its beginning, and then as it comes.

Which requests are identical is for others to say.
"""

import asyncio
from collections.abc import Hashable

from local_gateway.sharing.shared_call import Caller, Make, SharedCall
from local_gateway.wire.answer import Answer

MAX_REPLAY_BYTES = 1_000_000  # of an answer that a newcomer is given at once; kept in memory until it is longer
MAX_LAG_BYTES = 64_000_000  # kept for one caller who reads slower than another; an answer with embeddings is that long


class Coalescer:
    """The flights that can still be joined. For one event loop."""

    def __init__(self, *, max_replay_bytes: int = MAX_REPLAY_BYTES, max_lag_bytes: int = MAX_LAG_BYTES) -> None:
        self._max_replay_bytes = max_replay_bytes
        self._max_lag_bytes = max_lag_bytes
        self._flights: dict[Hashable, SharedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of flights that cannot be joined any more

    async def join(self, key: Hashable, make: Make) -> Answer:
        """This caller's own Answer, made by `make` unless a flight with this key can be joined.

        `make` runs in a task of its own, so it must not depend on its caller's being there. Its errors are raised here
        for every caller. While the answer is coming, exactly one caller's `origin.sharing` is "miss": who pays. Whose
        it is may change until the caller has called `aclose`, so read it after that. `origin.settle` tells nothing to
        those who leave before the others.
        """
        caller = Caller(self._flights.get(key) or self._start(key, make))
        try:
            return await caller.answer()
        except BaseException:
            await caller.aclose()
            raise

    def __len__(self) -> int:
        return len(self._flights)

    def _start(self, key: Hashable, make: Make) -> SharedCall:
        flight = self._flights[key] = SharedCall(self._max_replay_bytes, self._max_lag_bytes)
        task = flight.start(make, lambda: self._flights.pop(key, None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight
