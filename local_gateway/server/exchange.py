"""One request of a client, from its headers to its usage record.

The main line is `_serve`: authenticate, read, route, admit, answer, reply. Whatever happens on the way, there is one
reply if the client is there to get it, and one record if it is known who asked.
"""

import asyncio
import dataclasses

from starlette.types import Receive, Scope, Send

from local_gateway.accounts.auth import Principal
from local_gateway.accounts.pricing import Estimate, Sent, estimate, max_seconds
from local_gateway.accounts.usage import UsageMeter, new_id
from local_gateway.edge.api_paths import ApiPath, check_method, parse_path
from local_gateway.edge.client_request import (
    ClientRequest,
    dump,
    other_models,
    read_fields,
    refuse_background,
    require_model,
)
from local_gateway.edge.disconnect import DisconnectWatch
from local_gateway.edge.request import (
    LARGE_BYTES,
    ClientLeftError,
    end_user_of,
    forwarded_headers,
    header,
    keys_own,
    read_body,
    refuse_websocket,
)
from local_gateway.edge.response import ResponseWriter
from local_gateway.errors import GatewayStoppingError, InvalidRequestError, RequestCancelledError, RouteNotFoundError
from local_gateway.gateway import Gateway
from local_gateway.routing.answer_source import RoutedRequest, discard
from local_gateway.routing.router import Route, not_found
from local_gateway.routing.upstream_call import adapted_body
from local_gateway.server.request_accounting import RequestAccounting
from local_gateway.telemetry.live_requests import LiveRequest
from local_gateway.telemetry.logs import request_id_var
from local_gateway.wire.answer import Answer

STOPPING = "The gateway is being stopped, and could not finish this request. Try again."
NOT_THIS_KEY = (
    "There is nothing at this address for this key: the account's own paths are open to keys made with --admin."
)


class Exchange:
    """Owns one request, in the task that the server runs for it. Knows no target and no database.

    Raises nothing: an error is answered, and the record says how it ended. `stop` ends it from outside.
    """

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
        self._request_id = f"req_{new_id()}"
        self._response = ResponseWriter(send, {"x-request-id": self._request_id}, gateway.redactor)
        self._account = RequestAccounting(self._request_id, scope["path"])
        self._forwarded = forwarded_headers(self._headers)
        self._span = gateway.tracer.begin(self._forwarded)
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def run(self) -> None:
        request_id_var.set(self._request_id)
        self._task = asyncio.current_task()
        self._gateway.running.add(self)
        try:
            await self._answer()
            await self._account.ask_targets()
        except asyncio.CancelledError:
            if not self._goes_on():
                raise
        finally:
            self._record()
            self._gateway.running.remove(self)

    def stop(self, *, at_once: bool) -> None:
        """The request ends with an error. With `at_once` also if it is ending already: no target is asked any more."""
        if self._task is not None and (at_once or not self._is_stopped):
            self._is_stopped = True
            self._task.cancel()

    def _goes_on(self) -> bool:
        """After a cancellation: whether it was `stop`, after which the request has an end of its own."""
        if not self._is_stopped or self._task is None:
            self._account.failed(GatewayStoppingError(STOPPING))
            return False
        self._task.uncancel()
        return True

    async def _answer(self) -> None:
        """The reply, whatever happens."""
        try:
            with self._gateway.admit():
                await self._serve()
        except ClientLeftError:
            await self._left()
        except Exception as error:
            self._account.failed(error)
            await self._response.error(error)
        except asyncio.CancelledError:
            if not self._goes_on():
                raise
            stopping = GatewayStoppingError(STOPPING, retry_after=1.0)
            if not self._response.is_complete:
                self._account.failed(stopping)
            await self._response.error(stopping)

    async def _left(self) -> None:
        """The client hung up, and is told nothing; or it was cancelled on the dashboard, and is told so."""
        if self._response.is_complete:
            self._account.outcome = "ok"
        elif self._live_request is not None and self._live_request.is_cancelled:
            self._account.outcome = "cancelled"
            await self._response.error(RequestCancelledError("This request was cancelled on the gateway's dashboard."))
        else:
            self._account.outcome = "client_left"

    def _record(self) -> None:
        record = self._account.close(self._response)
        self._span.end(record)
        self._gateway.request_ended(record, is_known=self._account.principal is not None)

    async def _serve(self) -> None:
        refuse_websocket(self._headers)
        principal = self._account.principal = self._principal or self._gateway.auth.authenticate(self._headers)
        path = self._find_path(principal)
        request = self._account.request = await self._read(path, principal)
        route = self._account.route = self._find_route(principal, path, request)
        request = self._account.request = _as_it_is_kept(request, route)
        guess = self._estimate(route, request)
        admission = self._account.admission = self._gateway.limiter.admit(principal.key, guess)
        self._response.headers |= admission.headers
        meter = self._account.meter = UsageMeter(
            request.path, wants_usage_chunk=request.wants_usage, num_prompt_tokens=guess.num_prompt_tokens
        )
        async with DisconnectWatch(self._receive) as watch:
            live = self._live_request = self._gateway.live_requests.begin(
                self._request_id, principal, request.model, lambda: meter.usage, watch.leave
            )
            routed = RoutedRequest(route, request, principal.id, self._is_no_store, admission.covers)
            answer = self._account.answer = await self._open(routed)
            live.answering(answer.origin.target, answer.origin.price)
            try:
                self._response.headers |= _origin_headers(answer)
                await self._response.answer(answer, meter, keep_alive=self._active.settings.timeouts.keep_alive)
            finally:
                await answer.aclose()

    def _find_path(self, principal: Principal) -> ApiPath:
        """Raises RouteNotFoundError, MethodNotAllowedError."""
        path = parse_path(self._scope["path"], self._scope["method"])
        check_method(self._scope["method"], path)
        if path.kind == "account" and not principal.is_admin:
            raise RouteNotFoundError(NOT_THIS_KEY)
        return path

    async def _read(self, path: ApiPath, principal: Principal) -> ClientRequest:
        server = self._active.settings.server
        raw = await read_body(
            self._headers, self._receive, max_bytes=server.max_body_bytes, timeout=server.body_timeout
        )
        content_type = header(self._headers, b"content-type")
        if len(raw) < LARGE_BYTES:
            read = read_fields(raw, content_type, path)
        else:
            read = await asyncio.to_thread(read_fields, raw, content_type, path)
        headers = {**self._forwarded, **self._span.headers()}
        if "idempotency-key" in headers:
            headers["idempotency-key"] = keys_own(headers["idempotency-key"], principal.id)
        query = self._scope["query_string"].decode("latin-1")
        request = ClientRequest(
            path=path.path,
            method=self._scope["method"],
            query="" if path.deployment else query,  # Azure's api-version
            raw=read.raw,
            body=read.body,
            form=read.form,
            content_type=read.content_type,
            headers=headers,
            request_id=self._request_id,
        )
        require_model(request, path)
        refuse_background(request, is_admin=principal.is_admin)
        self._account.end_user = request.end_user or end_user_of(self._headers)
        return request

    def _find_route(self, principal: Principal, path: ApiPath, request: ClientRequest) -> Route:
        """Raises ModelNotFoundError, RouteNotFoundError, InvalidRequestError."""
        if path.kind == "model" and request.model:
            route = self._active.router.resolve(request.model)
            for model in (request.model, *other_models(request.body)):
                if not principal.may_use(model):
                    raise not_found(model)
            return route
        if path.kind == "model" and principal.key is not None and principal.key.models:
            raise InvalidRequestError("This key may use some models only: name one of them.", param="model")
        other = self._active.router.route_without_model()
        if other is None:
            raise RouteNotFoundError("There is nothing at this address.")
        return other

    def _estimate(self, route: Route, request: ClientRequest) -> Estimate:
        """By what each target would be sent that may answer, those of fallbacks and of a cold start's model too."""
        timeout = self._active.settings.timeouts.total
        sent = (
            Sent(
                adapted_body(request, choice),
                choice.target.settings.price,
                each.settings.context_length,
                max_seconds(choice.target.settings, each.settings.timeouts.total or timeout),
            )
            for each in route.all_routes
            for choice in each.choices()
        )
        if request.form is not None:
            return estimate(request.path, request.form.texts, sent, num_media=request.form.num_files)
        return estimate(request.path, request.raw, sent)

    @property
    def _is_no_store(self) -> bool:
        return "no-store" in header(self._headers, b"cache-control").lower()

    async def _open(self, routed: RoutedRequest) -> Answer:
        """The answer. A stream that must wait for it is opened before, and kept alive."""
        answering = self._active.answers.answer(routed)
        if not routed.request.is_stream:
            return await answering
        task = asyncio.create_task(answering)
        try:
            await asyncio.wait([task], timeout=self._active.settings.timeouts.commit)
            if not task.done():
                await self._response.open_stream()
            while not task.done():
                await self._response.keep_alive()
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


def _as_it_is_kept(request: ClientRequest, route: Route) -> ClientRequest:
    """What may be answered for others is sent as it was parsed: no target reads another question than was kept."""
    if request.body is None or not (route.settings.cache or route.settings.coalesce):
        return request
    return dataclasses.replace(request, raw=dump(request.body))
