"""What one request comes to: gathered while it runs, settled and recorded when it is over."""

import time

from local_gateway.accounts.auth import ANONYMOUS, Principal
from local_gateway.accounts.limiter import Admission
from local_gateway.accounts.pricing import cost_of
from local_gateway.accounts.usage import Outcome, Usage, UsageMeter, UsageRecord
from local_gateway.edge.client_request import ClientRequest
from local_gateway.edge.response import Reply
from local_gateway.errors import RequestError, TargetError, TargetRefusedError
from local_gateway.routing.error_policy import CLIENTS_FAULT, judge
from local_gateway.routing.router import Route
from local_gateway.wire.answer import Answer, ExecutionStats

CLIENT_LEFT_STATUS = 499  # as nginx calls it; nobody was sent it
REFUSALS = (401, 403, 404, 429, 503)


class RequestAccounting:
    """Its parts are filled in as far as the request gets. It knows nothing of how it is answered."""

    def __init__(self, request_id: str, path: str) -> None:
        self._request_id = request_id
        self._path = path
        self._arrived = time.time()
        self._start = time.monotonic()
        self.principal: Principal | None = None
        self.request: ClientRequest | None = None
        self.route: Route | None = None
        self.admission: Admission | None = None
        self.meter: UsageMeter | None = None
        self.answer: Answer | None = None
        self.outcome: Outcome = "ok"
        self._target, self._num_attempts = "", 0  # where there is no answer
        self._stats = ExecutionStats()
        self._total_seconds = 0.0

    def failed(self, error: Exception) -> None:
        self.outcome = _outcome_of(error)
        if isinstance(error, RequestError):
            self._target, self._num_attempts = error.target, error.num_attempts

    async def settle(self) -> None:
        """When the reply is over: learn what the target tells of its work. Takes a few seconds at most."""
        self._total_seconds = time.monotonic() - self._start
        if self.answer is not None:
            self._stats = await self.answer.execution_stats()

    def close(self, reply: Reply) -> UsageRecord:
        """Give back what was reserved beyond the cost, and say what there is to remember."""
        usage = self.meter.usage if self.meter and self.answer else Usage()
        cost = self._cost(usage)
        if self.admission is not None:
            self.admission.settle(usage.num_tokens, cost)
        return self._record(reply, usage, cost)

    def _cost(self, usage: Usage) -> float:
        """Who shares another's answer pays nothing."""
        if self.answer is None or self.answer.origin.sharing in ("hit", "shared"):
            return 0.0
        told = self._stats.execution_seconds
        worked = self._total_seconds if told is None else told
        return cost_of(usage, self.answer.origin.price, worked)

    def _record(self, reply: Reply, usage: Usage, cost: float) -> UsageRecord:
        principal = self.principal or ANONYMOUS
        origin = self.answer.origin if self.answer else None
        return UsageRecord(
            time=self._arrived,
            request_id=self._request_id,
            key_id=principal.id,
            key_name=principal.name,
            alias=self.route.alias if self.route else "",
            model=self.request.model if self.request else "",
            target=origin.target if origin else self._target,
            path=self.request.path if self.request else self._path,
            is_stream=self.request.is_stream if self.request else False,
            status=reply.status or CLIENT_LEFT_STATUS,
            outcome=self.outcome,
            num_prompt_tokens=usage.num_prompt_tokens,
            num_cached_tokens=usage.num_cached_tokens,
            num_completion_tokens=usage.num_completion_tokens,
            is_estimated=usage.is_estimated,
            cost=cost,
            execution_seconds=self._stats.execution_seconds,
            queue_seconds=self._stats.queue_seconds,
            first_token_seconds=reply.first_sent_at - self._start if reply.first_sent_at else None,
            total_seconds=self._total_seconds,
            num_attempts=origin.num_attempts if origin else self._num_attempts,
            is_cold=origin.is_cold if origin else False,
            sharing=origin.sharing if origin else "",
        )


def _outcome_of(error: Exception) -> Outcome:
    """Whose doing it was: a target's, the client's, or a limit of ours."""
    if isinstance(error, TargetRefusedError) and judge(error) == CLIENTS_FAULT:
        return "client_error"
    if isinstance(error, TargetError) or not isinstance(error, RequestError):
        return "target_error"
    return "refused" if error.status in REFUSALS else "client_error"
