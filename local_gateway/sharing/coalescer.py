"""Single-flight: identical requests share one call; each gets the answer from its beginning, and then as it comes.

Which requests are identical is the caller's to say.
"""

import asyncio
from collections.abc import Hashable

from local_gateway.routing.answer_source import AnswerSource, RoutedRequest
from local_gateway.sharing.shared_call import MAX_LAG_BYTES, SharedCall
from local_gateway.wire.answer import Answer


class Coalescer:
    """The calls of one model that run. For one event loop."""

    def __init__(self, *, max_lag_bytes: int = MAX_LAG_BYTES) -> None:
        self._max_lag_bytes = max_lag_bytes
        self._calls: dict[Hashable, SharedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of calls that cannot be joined any more

    async def answer(self, key: Hashable, routed: RoutedRequest, source: AnswerSource) -> Answer:
        """This request's own Answer, from `source` unless a call with this key can be joined.

        `source` is asked in a task of its own, which outlives the request that started it. Its errors are raised here
        for every subscriber. `origin.sharing` says whether the request pays; it is final when the answer is closed.
        """
        call = self._call(key, routed, source)
        routed.request.calls.adopt(call.ledger)
        subscriber = call.subscribe()
        try:
            return await subscriber.answer()
        except BaseException:
            await subscriber.aclose()
            raise

    def __len__(self) -> int:
        return len(self._calls)

    def _call(self, key: Hashable, routed: RoutedRequest, source: AnswerSource) -> SharedCall:
        call = self._calls.get(key)
        if call is None or not call.is_joinable:
            call = self._calls[key] = SharedCall(self._max_lag_bytes, routed.request.calls)
            task = asyncio.create_task(self._run(key, call, routed, source))
            call.task = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return call

    async def _run(self, key: Hashable, call: SharedCall, routed: RoutedRequest, source: AnswerSource) -> None:
        try:
            await call.run(routed, source)
        finally:
            if self._calls.get(key) is call:
                del self._calls[key]
