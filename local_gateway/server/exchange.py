"""One request of a client, from its headers to its usage record.

The main line is `_serve`: authenticate, read, route, admit, answer, reply. Whatever happens on the way, there is one
reply if anybody is there to get it, and one record if it is known who asked.
"""

import asyncio
import uuid

from starlette.types import Receive, Scope, Send

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.pricing import Estimate, Sent, estimate
from local_gateway.accounts.usage import UsageMeter
from local_gateway.edge.client_request import ClientRequest, parse_body, require_model
from local_gateway.edge.disconnect import DisconnectWatch
from local_gateway.edge.request import ClientLeftError, api_method, api_path, forwarded_headers, header, read_body
from local_gateway.edge.response import Reply
from local_gateway.errors import RequestCancelledError, RouteNotFoundError
from local_gateway.gateway import Gateway
from local_gateway.routing.answer_source import RoutedRequest, discard
from local_gateway.routing.router import Route, not_found
from local_gateway.routing.upstream_call import adapted_body
from local_gateway.server.request_accounting import RequestAccounting
from local_gateway.telemetry.live_requests import LiveRequest
from local_gateway.telemetry.logs import request_id_var
from local_gateway.wire.answer import Answer


class Exchange:
    def __init__(
        self, gateway: Gateway, scope: Scope, receive: Receive, send: Send, principal: Principal | None = None
    ) -> None:
        """`principal`: who sends it, if that is known by other means than the key in its headers."""
        self._gateway = gateway
        self._active = gateway.active  # a reload does not change what has begun
        self._scope = scope
        self._principal = principal
        self._live_request: LiveRequest | None = None
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._request_id = f"req_{uuid.uuid4().hex}"
        self._reply = Reply(send, {"x-request-id": self._request_id})
        self._account = RequestAccounting(self._request_id, scope["path"])
        self._forwarded = forwarded_headers(self._headers)
        self._span = gateway.tracer.begin(self._forwarded)

    async def run(self) -> None:
        request_id_var.set(self._request_id)
        try:
            with self._gateway.admit():
                await self._serve()
        except ClientLeftError:
            await self._left()
        except Exception as error:
            self._account.failed(error)
            await self._reply.error(error)
        finally:
            try:
                await self._account.charge()
            finally:  # also if the gateway is stopped meanwhile
                self._record()

    async def _left(self) -> None:
        """The client hung up, and is told nothing; or it was cancelled on the dashboard, and is told so."""
        if self._reply.is_complete:
            self._account.outcome = "ok"
        elif self._live_request is not None and self._live_request.is_cancelled:
            self._account.outcome = "cancelled"
            await self._reply.error(RequestCancelledError("This request was cancelled on the gateway's dashboard."))
        else:
            self._account.outcome = "client_left"

    def _record(self) -> None:
        record = self._account.close(self._reply)
        self._span.end(record)
        self._gateway.request_ended(record, is_known=self._account.principal is not None)

    async def _serve(self) -> None:
        principal = self._account.principal = self._principal or self._gateway.auth.authenticate(self._headers)
        request = self._account.request = await self._read()
        route = self._account.route = self._find_route(principal, request)
        guess = self._estimate(route, request)
        admission = self._account.admission = self._gateway.limiter.admit(principal.key, guess)
        self._reply.headers |= admission.headers
        meter = self._account.meter = UsageMeter(
            request.path, wants_usage_chunk=request.wants_usage, num_prompt_tokens=guess.num_prompt_tokens
        )
        async with DisconnectWatch(self._receive) as watch:
            live = self._live_request = self._gateway.live_requests.begin(
                self._request_id, principal, request.model, lambda: meter.usage, watch.leave
            )
            answer = self._account.answer = await self._open(principal, route, request)
            live.answering(answer.origin.target, answer.origin.price)
            try:
                self._reply.headers |= _origin_headers(answer)
                await self._reply.answer(answer, meter)
            finally:
                await answer.aclose()

    async def _read(self) -> ClientRequest:
        path = api_path(self._scope)
        method = api_method(self._scope, path)
        server = self._active.settings.server
        raw = await read_body(
            self._headers, self._receive, max_bytes=server.max_body_bytes, timeout=server.body_timeout
        )
        content_type = header(self._headers, b"content-type")
        request = ClientRequest(
            path=path,
            method=method,
            query=self._scope["query_string"].decode("latin-1"),
            raw=raw,
            body=parse_body(raw, content_type, path),
            content_type=content_type,
            headers={**self._forwarded, **self._span.headers()},
            request_id=self._request_id,
        )
        require_model(request)
        return request

    def _find_route(self, principal: Principal, request: ClientRequest) -> Route:
        """Raises ModelNotFoundError, RouteNotFoundError."""
        if request.model:
            route = self._active.router.resolve(request.model)
            if not principal.may_use(request.model):
                raise not_found(request.model)
            return route
        other = self._active.router.route_without_model()
        if other is None or (principal.key is not None and principal.key.models):
            raise RouteNotFoundError("There is nothing at this address.")
        return other

    def _estimate(self, route: Route, request: ClientRequest) -> Estimate:
        """By what each target would be sent that may answer, those of fallbacks and of a cold start's model too."""
        sent = (
            Sent(adapted_body(request, choice), choice.target.settings.price, each.settings.context_length)
            for each in route.all_routes
            for choice in each.choices()
        )
        return estimate(request.path, request.raw, sent)

    async def _open(self, principal: Principal, route: Route, request: ClientRequest) -> Answer:
        """The answer. A stream that must wait for it is opened before, and kept alive."""
        no_store = "no-store" in header(self._headers, b"cache-control").lower()
        answering = self._active.answers.answer(RoutedRequest(route, request, principal.id, no_store=no_store))
        if not request.is_stream:
            return await answering
        task = asyncio.create_task(answering)
        try:
            await asyncio.wait([task], timeout=self._active.settings.timeouts.commit)
            if not task.done():
                await self._reply.open_stream()
            while not task.done():
                await self._reply.keep_alive()
                await asyncio.wait([task], timeout=self._active.settings.timeouts.keep_alive)
            return task.result()
        except asyncio.CancelledError:
            await discard([task])
            raise


def _origin_headers(answer: Answer) -> dict[str, str]:
    headers = {"x-gateway-target": answer.origin.target}
    if answer.origin.sharing:
        headers["x-gateway-cache"] = answer.origin.sharing
    return headers
