"""What one request comes to: gathered while it runs, settled and recorded when it is over."""

import asyncio
import time

from local_gateway.accounts.auth import ANONYMOUS, Principal
from local_gateway.accounts.limiter import Admission
from local_gateway.accounts.pricing import cost_of
from local_gateway.accounts.usage import RequestOutcome, Usage, UsageMeter, UsageRecord
from local_gateway.edge.client_request import ClientRequest
from local_gateway.edge.response import ResponseWriter
from local_gateway.errors import GatewayStoppingError, RequestError, TargetError, TargetRefusedError
from local_gateway.routing.router import Route
from local_gateway.wire.answer import Answer
from local_gateway.wire.call_ledger import CallTally, ExecutionStats

CLIENT_LEFT_STATUS = 499  # as nginx logs it; it was not sent
REFUSALS = (401, 403, 404, 429, 503)
UNPAID = ("hit", "shared")  # answers that another request pays for


class RequestAccounting:
    """Collects what the usage record needs; each field is set when the request reaches that stage, and None before.

    Lives in the request's task. Decides what the request costs: the answer by its usage, and every other call that
    was sent to a target for it. Knows nothing of how the request is answered.
    """

    def __init__(self, request_id: str, path: str) -> None:
        self._request_id = request_id
        self._path = path
        self._arrived = time.time()
        self._start = time.monotonic()
        self.principal: Principal | None = None
        self.end_user = ""
        self.request: ClientRequest | None = None
        self.route: Route | None = None
        self.admission: Admission | None = None
        self.meter: UsageMeter | None = None
        self.answer: Answer | None = None
        self.outcome: RequestOutcome = "ok"
        self._target, self._num_attempts = "", 0  # where there is no answer
        self._execution_seconds: float | None = None  # of all calls that tell
        self._queue_seconds: float | None = None
        self._is_finished = False
        self._unanswered: list[CallTally] = []
        self._answer_stats = ExecutionStats()
        self._stats: dict[CallTally, ExecutionStats] = {}  # of those that told
        self._total_seconds = 0.0
        self._cost = 0.0
        self._num_unanswered_tokens = 0  # of the prompts of calls that gave no answer

    def failed(self, error: BaseException) -> None:
        self.outcome = _outcome_of(error)
        if isinstance(error, RequestError):
            self._target, self._num_attempts = error.target, error.num_attempts

    async def ask_targets(self) -> None:
        """When the response is over: how long the targets worked. Takes a few seconds at most; may be cancelled."""
        self._finish()
        if self._unanswered:
            await asyncio.gather(self._ask_for_answer(), *(self._ask_for_call(call) for call in self._unanswered))
        else:
            await self._ask_for_answer()  # without a task of its own, as for most requests

    def _finish(self) -> None:
        """Note which calls this request pays for, the first time."""
        if self._is_finished:
            return
        self._is_finished = True
        self._total_seconds = time.monotonic() - self._start
        origin = self.answer.origin if self.answer else None
        uncharged = list(self.request.calls.take_uncharged()) if self.request else []
        self._unanswered = [call for call in uncharged if origin is None or call is not origin.call]

    async def _ask_for_answer(self) -> None:
        """A request that shares another's answer does not pay for it."""
        if self.answer is not None and self.answer.origin.sharing not in UNPAID:
            self._answer_stats = await self.answer.execution_stats()

    async def _ask_for_call(self, call: CallTally) -> None:
        self._stats[call] = await call.execution_stats()

    def _charge_answer(self) -> None:
        """By what it used."""
        if self.answer is None or self.answer.origin.sharing in UNPAID:
            return
        origin = self.answer.origin
        self._note_stats(self._answer_stats)
        worked = origin.call.seconds if origin.call.is_started else self._total_seconds
        told = self._answer_stats.execution_seconds
        cost = cost_of(self._answer_usage, origin.price, worked if told is None else told)
        self._cost += cost
        if origin.on_charged is not None:
            origin.on_charged(cost)

    def _charge_call(self, call: CallTally) -> None:
        """A call without an answer: its time, and its prompt unless the target says that it did not begin."""
        stats = self._stats.get(call, ExecutionStats())
        self._note_stats(stats)
        self._target = self._target or call.target
        self._num_attempts = max(self._num_attempts, 1)
        num_prompt_tokens = 0 if call.is_refused or self.meter is None else self.meter.num_prompt_tokens
        worked = call.seconds if stats.execution_seconds is None else stats.execution_seconds
        self._num_unanswered_tokens += num_prompt_tokens
        self._cost += cost_of(Usage(num_prompt_tokens), call.price, worked)

    def _note_stats(self, stats: ExecutionStats) -> None:
        if stats.execution_seconds is not None:
            self._execution_seconds = (self._execution_seconds or 0.0) + stats.execution_seconds
        self._queue_seconds = self._queue_seconds if stats.queue_seconds is None else stats.queue_seconds

    @property
    def _answer_usage(self) -> Usage:
        return self.meter.usage if self.meter and self.answer else Usage()

    def close(self, response: ResponseWriter) -> UsageRecord:
        """Give back what was reserved beyond the cost, and say what there is to remember."""
        self._finish()
        self._charge_answer()
        for call in self._unanswered:
            self._charge_call(call)
        usage = self._answer_usage
        if self.answer is None and self._num_unanswered_tokens:
            usage = Usage(self._num_unanswered_tokens, is_estimated=True)
        if self.admission is not None:
            self.admission.settle(usage.num_tokens, self._cost)
        return self._record(response, usage)

    def _record(self, response: ResponseWriter, usage: Usage) -> UsageRecord:
        principal = self.principal or ANONYMOUS
        origin = self.answer.origin if self.answer else None
        return UsageRecord(
            time=self._arrived,
            request_id=self._request_id,
            key_id=principal.id,
            key_name=principal.name,
            end_user=self.end_user,
            alias=self.route.alias if self.route else "",
            model=self.request.model if self.request else "",
            target=origin.target if origin else self._target,
            endpoint=origin.endpoint if origin and origin.sharing not in UNPAID else "",
            path=self.request.path if self.request else self._path,
            is_stream=self.request.is_stream if self.request else False,
            status=response.status or CLIENT_LEFT_STATUS,
            outcome=self.outcome,
            num_prompt_tokens=usage.num_prompt_tokens,
            num_cached_tokens=usage.num_cached_tokens,
            num_completion_tokens=usage.num_completion_tokens,
            is_estimated=usage.is_estimated,
            cost=self._cost,
            execution_seconds=self._execution_seconds,
            queue_seconds=self._queue_seconds,
            first_token_seconds=response.first_sent_at - self._start if response.first_sent_at else None,
            total_seconds=self._total_seconds,
            num_attempts=origin.num_attempts if origin else self._num_attempts,
            is_cold=origin.is_cold if origin else False,
            sharing=origin.sharing if origin else "",
        )


def _outcome_of(error: BaseException) -> RequestOutcome:
    """Whose doing it was: a target's, the client's, or a limit of ours."""
    if isinstance(error, TargetRefusedError) and error.is_clients_fault:
        return "client_error"
    if isinstance(error, GatewayStoppingError):
        return "stopped"
    if isinstance(error, TargetError) or not isinstance(error, RequestError):
        return "target_error"
    return "refused" if error.status in REFUSALS else "client_error"
