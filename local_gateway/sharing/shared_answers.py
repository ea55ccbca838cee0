"""Answers shared between requests: kept ones, and those on their way. Off unless a model's settings say so.

Decided here: which requests are the same, and which of them have the same answer each time.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import orjson

from local_gateway.config.settings import CacheSettings, ModelSettings, SharingScope
from local_gateway.edge.api_paths import MODEL_PATHS
from local_gateway.edge.client_request import ClientRequest
from local_gateway.errors import InvalidRequestError
from local_gateway.routing.answer_source import AnswerSource, RoutedRequest
from local_gateway.sharing.coalescer import Coalescer
from local_gateway.sharing.response_cache import ResponseCache
from local_gateway.wire.answer import Answer

EMBEDDINGS, RESPONSES = "/embeddings", "/responses"
# They describe the client, not the question. The Responses API repeats them in its answers, so there they count.
ABOUT_THE_CLIENT = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})
SHAPING_HEADERS = ("openai-beta",)  # of those that targets see
TEAM = ""  # in place of a key's id, where all keys share; no key has this id


def digest(request: ClientRequest) -> str:
    """Equal for requests that ask for the same. The order of fields counts only where a model may see it.

    Raises InvalidRequestError if the body is nested too deeply.
    """
    body = {name: value for name, value in (request.body or {}).items() if _counts(name, value, request.path)}
    headers = [request.headers.get(name, "") for name in SHAPING_HEADERS]
    try:
        if "messages" in body:
            body["messages"] = orjson.Fragment(orjson.dumps(body["messages"], option=orjson.OPT_SORT_KEYS))
        fingerprint = orjson.dumps(
            [request.path, request.query, headers, sorted(body.items(), key=lambda item: item[0])]
        )
    except orjson.JSONEncodeError:
        raise InvalidRequestError("The body of your request is nested too deeply.") from None
    return hashlib.sha256(fingerprint).hexdigest()


def _counts(name: str, value: object, path: str) -> bool:
    if name in ABOUT_THE_CLIENT:
        return path == RESPONSES
    if name == "stream":
        return bool(value)
    if name == "stream_options":  # targets are always asked for the usage, and the client is shown what it asked for
        return isinstance(value, dict) and bool(value.keys() - {"include_usage"})
    return True


def is_shareable(request: ClientRequest) -> bool:
    """Whether a second answer would differ from the first by chance alone: nothing is stored, run or continued."""
    if request.method != "POST" or request.path not in MODEL_PATHS or not request.body:
        return False
    body = request.body
    store = body.get("store")
    is_stored = request.path == RESPONSES if store is None else store
    return not (is_stored or body.get("background") or body.get("conversation"))


def is_deterministic(request: ClientRequest) -> bool:
    """Whether a second answer would be the same, as far as its request can say."""
    body: Mapping[str, Any] = request.body or {}
    if request.path == EMBEDDINGS:
        return True
    if body.get("n") not in (None, 1) or "web_search_options" in body or _has_hosted_tools(body.get("tools")):
        return False
    return body.get("temperature") == 0 or body.get("seed") is not None


def _has_hosted_tools(tools: object) -> bool:
    """Tools that the target itself runs, like a search, whose results change."""
    named = [tool.get("type") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return any(kind not in ("function", "custom") for kind in named)


class Sharing:
    """An AnswerSource around another: it answers from what is kept or on its way, where the model's settings allow it.

    Made for each configuration; what is shared lives in SharedAnswers and outlives a reload.
    """

    def __init__(self, source: AnswerSource, shared: "SharedAnswers") -> None:
        self._source = source
        self._shared = shared

    async def answer(self, routed: RoutedRequest) -> Answer:
        """`origin.sharing` says how it was answered. Raises what the source raises, and InvalidRequestError."""
        settings = routed.route.settings
        if routed.no_store or not (settings.cache or settings.coalesce) or not is_shareable(routed.request):
            return await self._source.answer(routed)
        return await self._shared.of(routed.route.alias, settings).answer(routed, self._source)


class SharedAnswers:
    """The shared answers of all models, by their configured names. A model whose settings change begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._models: dict[str, ModelAnswers] = {}

    def of(self, alias: str, settings: ModelSettings) -> "ModelAnswers":
        model = self._models.get(alias)
        if model is None or not model.is_for(settings):
            model = self._models[alias] = ModelAnswers(settings, self._clock)
        return model

    def forget_except(self, aliases: Collection[str]) -> None:
        """Drop those of models that are not configured any more."""
        self._models = {alias: model for alias, model in self._models.items() if alias in aliases}


class ModelAnswers:
    """The kept answers of one model and its calls in flight."""

    def __init__(self, settings: ModelSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._cache = ResponseCache(settings.cache or CacheSettings(), clock)
        self._coalescer = Coalescer()

    def is_for(self, settings: ModelSettings) -> bool:
        if settings is not self._settings and settings != self._settings:
            return False
        self._settings = settings  # next time they need not be compared
        return True

    async def answer(self, routed: RoutedRequest, source: AnswerSource) -> Answer:
        """Kept, shared, or of the source; a deterministic one of the source is recorded on its way."""
        keeps = self._settings.cache if is_deterministic(routed.request) else None
        shares = self._settings.coalesce
        if not (keeps or shares):
            return await source.answer(routed)
        fingerprint = digest(routed.request)
        if keeps:
            key = (_within(keeps.scope, routed.who), fingerprint)
            if (hit := self._cache.find(key)) is not None:
                return hit
            source = _Recorder(source, self._cache, key)
        if shares:
            return await self._coalescer.answer((_within(shares, routed.who), fingerprint), routed, source)
        answer = await source.answer(routed)
        answer.origin.sharing = "miss"
        return answer


class _Recorder:
    """An AnswerSource around another, whose answers are put into a cache when they are whole.

    Only those of the route's own targets: the answer of a fallback model is better than none, but not for an hour.
    """

    def __init__(self, source: AnswerSource, cache: ResponseCache, key: Hashable) -> None:
        self._source = source
        self._cache = cache
        self._key = key

    async def answer(self, routed: RoutedRequest) -> Answer:
        answer = await self._source.answer(routed)
        if answer.origin.target not in {target.name for target in routed.route.targets}:
            return answer
        return await self._cache.record(self._key, routed.request.path, answer)


def _within(scope: SharingScope, who: str) -> str:
    return who if scope == "key" else TEAM
