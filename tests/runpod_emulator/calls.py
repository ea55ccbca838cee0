"""What all calls have in common: the key, the endpoint, the limits and the faults."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from .endpoint import Endpoint
from .faults import Faults
from .settings import Settings

C = TypeVar("C", bound="Calls")
Method = Callable[[C, web.Request, Endpoint], Awaitable[web.StreamResponse]]


class Calls:
    """Base of the APIs: a table of routes, whose names are what faults and limits go by."""

    def __init__(self, endpoints: dict[str, Endpoint], settings: Settings, faults: Faults) -> None:
        self.endpoints = endpoints
        self.settings = settings
        self.faults = faults

    def authorise(self, request: web.Request) -> None:
        """Raise HTTPUnauthorized without the right key."""
        raise NotImplementedError

    def endpoint_of(self, request: web.Request) -> Endpoint:
        endpoint = self.endpoints.get(request.match_info["endpoint"])
        if endpoint is None or endpoint.own.kind != "queue":
            raise web.HTTPNotFound(text="there is no such endpoint")
        return endpoint


def call(method: Method[C]) -> Callable[[C, web.Request], Awaitable[web.StreamResponse]]:
    """A handler of aiohttp's from a method that also gets the endpoint."""

    async def handle(self: C, request: web.Request) -> web.StreamResponse:
        self.authorise(request)
        endpoint = self.endpoint_of(request)
        name = request.match_info.route.name or ""
        if retry_after := endpoint.limiter.enter(name, endpoint.now, endpoint.num_running_workers):
            raise web.HTTPTooManyRequests(headers={"Retry-After": f"{retry_after:.0f}"})
        try:
            return await self.faults.apply(name, request, lambda request: method(self, request, endpoint))
        finally:
            endpoint.limiter.leave(name)

    return handle
