"""Which route does what. The one entrance to the API, for jobs and for HTTP alike."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from handler.api import anthropic_events, sse
from handler.api.anthropic import Messages
from handler.api.chat import ChatCompletions
from handler.api.common import Answer
from handler.api.completions import Completions
from handler.api.embeddings import Embeddings
from handler.api.infill import Infills
from handler.api.model_names import ServedNames
from handler.api.rerank import Rerank
from handler.api.responses import Responses
from handler.api.stream import EventStream
from handler.api.tokens import Tokens
from handler.errors import ErrorResponse, InvalidRequestError, MethodNotAllowedError, RouteNotFoundError, to_response

Method = Literal["GET", "POST"]
Create = Callable[[object], Awaitable[Answer | EventStream]]
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
INFILL = "/v1/infill"
MODELS = "/v1/models"
TOKENIZE = "/v1/tokenize"
DETOKENIZE = "/v1/detokenize"
COUNT = f"{CHAT}/input_tokens"
RESPONSES = "/v1/responses"
RESPONSES_COUNT = f"{RESPONSES}/input_tokens"
MESSAGES = "/v1/messages"
MESSAGES_COUNT = f"{MESSAGES}/count_tokens"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
RERANK_ALIASES = ("/v1/reranking", "/v1/v2/rerank")  # llama-server's, and Cohere's of version 2
GENERATING = (CHAT, COUNT, COMPLETIONS, INFILL, RESPONSES, RESPONSES_COUNT, MESSAGES, MESSAGES_COUNT)


class Example(NamedTuple):
    """A request that this model can answer."""

    route: str
    fields: dict[str, Any]  # of the body, beside the model's name


class Routes:
    """The routes of one served model. Called from any event loop; knows nothing of jobs and HTTP."""

    def __init__(
        self, names: ServedNames, creates: Mapping[str, Create], others: Mapping[str, str], example: Example
    ) -> None:
        """`others`: routes of models of another kind, and what is said of them. `example`: a request to show."""
        self.names = names
        self.example = example
        self._creates = creates
        self._others = others
        self._unlimited: dict[str, Create] = {}

    async def call(
        self, route: str, body: object, method: Method | None = None, *, unlimited: bool = False
    ) -> Answer | EventStream:
        """Answer a request. RunPod tells the route and no method: None fits any. Raises RequestError.

        `/v1` may be left out, and a slash may end the route. `unlimited`: completions have no default limit of tokens.
        """
        route = normalise(route)
        if unlimited and (create := self._unlimited.get(route)):
            return await create(body)
        if create := self._creates.get(route):
            _require("POST", method, route)
            return await create(body)
        if route == MODELS or route.startswith(f"{MODELS}/"):
            _require("GET", method, route)
            name = route.removeprefix(MODELS).lstrip("/")
            return self.names.model(name) if name else self.names.models()
        if why := self._others.get(route):
            raise InvalidRequestError(f"{route}: {why}", param="model", code="model_not_supported")
        asked = f"{method} {route[:80]}" if method else route[:80]
        raise RouteNotFoundError(f"Unknown request URL: {asked}. Please check the URL for typos.")


class Api(Routes):
    """Those of a model that generates."""

    def __init__(
        self, chat: ChatCompletions, completions: Completions, infills: Infills, tokens: Tokens, names: ServedNames
    ) -> None:
        responses, messages = Responses(chat), Messages(chat)
        creates: dict[str, Create] = {
            CHAT: chat.create,
            COUNT: chat.count_tokens,
            RESPONSES: responses.create,
            RESPONSES_COUNT: responses.count_tokens,
            MESSAGES: messages.create,
            MESSAGES_COUNT: messages.count_tokens,
            COMPLETIONS: completions.create,
            INFILL: infills.create,
            TOKENIZE: tokens.tokenize,
            DETOKENIZE: tokens.detokenize,
        }
        others = {
            EMBEDDINGS: "this worker's model generates text; vectors need an embedding model, or TASK=embed.",
            RERANK: "this worker's model generates text; ranking needs a reranking model.",
        }
        question = [{"role": "user", "content": "What is the capital of France?"}]
        super().__init__(names, creates, others, Example(CHAT, {"messages": question}))
        self._unlimited[COMPLETIONS] = partial(completions.create, unlimited=True)


class EmbeddingApi(Routes):
    """Those of a model that makes vectors."""

    def __init__(self, embeddings: Embeddings, tokens: Tokens, names: ServedNames) -> None:
        creates: dict[str, Create] = {
            EMBEDDINGS: embeddings.create,
            TOKENIZE: tokens.tokenize,
            DETOKENIZE: tokens.detokenize,
        }
        why = "this worker's model makes vectors, at /v1/embeddings; "
        others = dict.fromkeys(GENERATING, f"{why}it cannot generate text.") | {RERANK: f"{why}it cannot rank."}
        super().__init__(names, creates, others, Example(EMBEDDINGS, {"input": "What is the capital of France?"}))


class RerankApi(Routes):
    """Those of a model that ranks."""

    def __init__(self, rerank: Rerank, tokens: Tokens, names: ServedNames) -> None:
        creates: dict[str, Create] = {
            RERANK: rerank.create,
            TOKENIZE: tokens.tokenize,
            DETOKENIZE: tokens.detokenize,
        }
        why = "this worker's model ranks documents, at /v1/rerank; it does nothing else."
        example = {"query": "What is the capital of France?", "documents": ["Paris is.", "Rome is in Italy."]}
        super().__init__(names, creates, dict.fromkeys((*GENERATING, EMBEDDINGS), why), Example(RERANK, example))


def error_response(error: BaseException, route: str = "") -> ErrorResponse:
    """An error in the form of the route that was asked for."""
    response = to_response(error)
    is_anthropic = f"{normalise(route)}/".startswith(f"{MESSAGES}/")  # its clients ask for more than is here
    return anthropic_events.error_response(response) if is_anthropic else response


def encode_error(body: dict[str, Any]) -> str:
    """The body of an error as the event that is all of a stream, in the body's form."""
    return sse.encode_named(body) if body.get("type") == "error" else sse.encode_error(body)


def normalise(route: str) -> str:
    route = "/" + route.split("?", maxsplit=1)[0].strip("/")
    route = route if route.startswith("/v1/") else "/v1" + route
    return RERANK if route in RERANK_ALIASES else route


def _require(wanted: Method, method: Method | None, route: str) -> None:
    if method not in (None, wanted):
        raise MethodNotAllowedError(f"{route} takes {wanted}, not {method}.")
