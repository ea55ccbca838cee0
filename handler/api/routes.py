"""Which route does what. The one entrance to the API, for jobs and for HTTP alike."""

from collections.abc import Awaitable, Callable
from typing import Literal

from handler.api.chat import ChatCompletions
from handler.api.common import Answer
from handler.api.completions import Completions
from handler.api.model_names import ServedNames
from handler.api.stream import EventStream
from handler.api.tokens import Tokens
from handler.errors import MethodNotAllowedError, RouteNotFoundError

Method = Literal["GET", "POST"]
Create = Callable[[object], Awaitable[Answer | EventStream]]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
TOKENIZE = "/v1/tokenize"
DETOKENIZE = "/v1/detokenize"
COUNT = f"{CHAT}/input_tokens"


class Api:
    """The routes of one served model. Called from any event loop; knows nothing of jobs and HTTP."""

    def __init__(self, chat: ChatCompletions, completions: Completions, tokens: Tokens, names: ServedNames) -> None:
        self.names = names
        self._completions = completions
        self._creates: dict[str, Create] = {
            CHAT: chat.create,
            COUNT: chat.count_tokens,
            COMPLETIONS: completions.create,
            TOKENIZE: tokens.tokenize,
            DETOKENIZE: tokens.detokenize,
        }

    async def call(
        self, route: str, body: object, method: Method | None = None, *, unlimited: bool = False
    ) -> Answer | EventStream:
        """Answer a request. RunPod tells the route and no method: None fits any. Raises RequestError.

        `/v1` may be left out, and a slash may end the route. `unlimited`: completions have no default limit of tokens.
        """
        route = normalise(route)
        if unlimited and route == COMPLETIONS:
            return await self._completions.create(body, unlimited=True)
        if create := self._creates.get(route):
            _require("POST", method, route)
            return await create(body)
        if route == MODELS or route.startswith(f"{MODELS}/"):
            _require("GET", method, route)
            name = route.removeprefix(MODELS).lstrip("/")
            return self.names.model(name) if name else self.names.models()
        asked = f"{method} {route[:80]}" if method else route[:80]
        raise RouteNotFoundError(f"Unknown request URL: {asked}. Please check the URL for typos.")


def normalise(route: str) -> str:
    route = "/" + route.split("?", maxsplit=1)[0].strip("/")
    return route if route.startswith("/v1/") else "/v1" + route


def _require(wanted: Method, method: Method | None, route: str) -> None:
    if method not in (None, wanted):
        raise MethodNotAllowedError(f"{route} takes {wanted}, not {method}.")
