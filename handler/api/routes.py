"""Which route does what. The one entrance to the API, for jobs and for HTTP alike."""

from typing import Literal

from handler.api.chat import ChatCompletions
from handler.api.common import Answer
from handler.api.completions import Completions
from handler.api.model_names import ServedNames
from handler.api.stream import EventStream
from handler.errors import MethodNotAllowedError, RouteNotFoundError

Method = Literal["GET", "POST"]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"


class Api:
    def __init__(self, chat: ChatCompletions, completions: Completions, names: ServedNames) -> None:
        self.names = names
        self._creates = {CHAT: chat.create, COMPLETIONS: completions.create}

    async def call(self, route: str, body: object, method: Method | None = None) -> Answer | EventStream:
        """Answer a request. RunPod tells the route and no method: None fits any. Raises RequestError.

        `/v1` may be left out, and a slash may end the route.
        """
        route = normalise(route)
        if create := self._creates.get(route):
            _require("POST", method, route)
            return await create(body)
        if route == MODELS or route.startswith(f"{MODELS}/"):
            _require("GET", method, route)
            name = route.removeprefix(MODELS).lstrip("/")
            return self.names.model(name) if name else self.names.models()
        raise RouteNotFoundError(f"There is no route {route[:80]!r} here.")


def normalise(route: str) -> str:
    route = "/" + route.split("?", maxsplit=1)[0].strip("/")
    return route if route.startswith("/v1/") else "/v1" + route


def _require(wanted: Method, method: Method | None, route: str) -> None:
    if method not in (None, wanted):
        raise MethodNotAllowedError(f"{route} takes {wanted}, not {method}.")
