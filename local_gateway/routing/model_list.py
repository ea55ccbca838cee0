"""The models a client may use, in OpenAI's form, with what some clients read besides: prices and context lengths.

Names come from the configuration. For a pattern like `gpt-*` its targets are asked which models they have.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson

from local_gateway.accounts.auth import Principal
from local_gateway.backends.base import Call
from local_gateway.config.settings import GatewaySettings, ModelSettings
from local_gateway.errors import RequestError
from local_gateway.routing.router import Router, not_found
from local_gateway.routing.target import Target
from local_gateway.wire.sse import BOM

log = logging.getLogger(__name__)

OWNER = "local_gateway"
KEEP_SECONDS = 300.0
KEEP_FAILURE_SECONDS = 30.0
ASK_SECONDS = 3.0  # LibreChat waits five for the whole list
LISTS = ("data", "models", "model_list", "items", "result", "results", "modelSummaries")  # fields that hold the list
NAMES = ("id", "name", "model", "model_id", "modelId", "model_name", "slug")  # of a model in it
MISSING = object()
TOKENS_PRICED = 1_000_000

Model = dict[str, Any]


class ModelList:
    """The models of one configuration. Remembers for minutes what targets of patterns list. Lives in the event loop."""

    def __init__(self, settings: GatewaySettings, router: Router, created: int, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._router = router
        self._created = created  # epoch seconds; clients want some number
        self._clock = clock
        self._found: dict[str, tuple[float, list[str]]] = {}  # of a target: until when, the names of its models

    async def all(self, principal: Principal) -> list[Model]:
        patterns = [name for name in self._settings.models if name.endswith("*")]
        found = await asyncio.gather(*(self._matching(pattern) for pattern in patterns))
        names = [name for name in self._settings.models if name not in patterns]
        return [
            self._model(name)
            for name in dict.fromkeys([*names, *(name for names in found for name in names)])
            if principal.may_use(name)
        ]

    def one(self, principal: Principal, name: str) -> Model:
        """Raises ModelNotFoundError. Whether a target has a model that a pattern matches, only using it tells."""
        self._router.resolve(name)
        if not principal.may_use(name):
            raise not_found(name)
        return self._model(name)

    def _model(self, name: str) -> Model:
        alias = self._settings.find(name)
        assert alias is not None
        return {"id": name, "object": "model", "created": self._created, "owned_by": OWNER} | _extras(
            self._settings.models[alias]
        )

    async def _matching(self, pattern: str) -> list[str]:
        """Models of the pattern's targets that it, and no longer one, matches.

        Only OpenAI's kind is asked: asking the others would start a worker.
        """
        targets = [target for target in self._router.resolve(pattern).targets if target.settings.type == "openai"]
        found = await asyncio.gather(*(self._models_of(target) for target in targets if not target.settings.model))
        names = sorted({name for names in found for name in names})
        return [name for name in names if self._settings.find(name) == pattern]

    async def _models_of(self, target: Target) -> list[str]:
        until, names = self._found.get(target.name, (0.0, []))
        if self._clock() < until:
            return names
        try:
            async with asyncio.timeout(ASK_SECONDS):
                names = await _ask(target)
            keep = KEEP_SECONDS
        except (RequestError, ValueError, TimeoutError) as error:
            log.warning("target %s does not list its models: %s", target.name, error or "it did not answer in time")
            keep = KEEP_FAILURE_SECONDS
        self._found[target.name] = self._clock() + keep, names
        return names


async def _ask(target: Target) -> list[str]:
    upstream = await target.backend.open(Call(path="/models", method="GET"))
    try:
        raw = b"".join([piece async for piece in upstream])
    finally:
        await upstream.aclose()
    if upstream.status != 200:
        raise ValueError(f"it answers with status {upstream.status}")
    return ids_in(orjson.loads(raw.removeprefix(BOM)))


def ids_in(listing: object) -> list[str]:
    """The names in a list of models, in each form in use. Raises ValueError if it is no list of models.

    {"data": [{"id"}]} of OpenAI, [{"id"}] of Together, {"models": [{"name"}]} of Ollama, Cohere and Gemini (which puts
    "models/" before each name), {"models": ["name"]}, ["name"], {"data": {"name": {...}}}, and {"data": null} for none.
    """
    found = next((listing[key] for key in LISTS if key in listing), MISSING) if isinstance(listing, dict) else listing
    if found is None:
        return []
    if not isinstance(found, list | dict):
        raise ValueError("its answer is no list of models")
    names = [_name_in(model) for model in found]
    return [name.removeprefix("models/") for name in names if name]


def _name_in(model: object) -> str:
    """Empty if there is none."""
    if isinstance(model, dict):
        model = next((model[key] for key in NAMES if isinstance(model.get(key), str)), "")
    return model if isinstance(model, str) else ""


def _extras(model: ModelSettings) -> Model:
    price = model.targets[0].price
    known = {
        "description": model.description,
        "context_length": model.context_length,
        "pricing": {"prompt": _per_token(price.prompt), "completion": _per_token(price.completion)}
        if price.prompt or price.completion
        else None,
    }
    return {key: value for key, value in known.items() if value}


def _per_token(price: float) -> str:
    """As OpenRouter writes it."""
    return f"{price / TOKENS_PRICED:.12f}".rstrip("0").rstrip(".") or "0"
