"""Targets that are never asked, for code that decides about them; and a clock that tests set."""

from typing import Any

from pydantic import TypeAdapter

from local_gateway.backends.base import Call, Health, Upstream
from local_gateway.config.settings import GatewaySettings, ModelSettings, OpenAITarget
from local_gateway.config.settings import Target as TargetConfig
from local_gateway.edge.client_request import ClientRequest
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.router import Route
from local_gateway.routing.target import Target, names_of

SETTINGS = ModelSettings(targets=(OpenAITarget(type="openai"),))
CONFIG: TypeAdapter[TargetConfig] = TypeAdapter(TargetConfig)


class FakeClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class NoBackend:
    """Is not asked."""

    async def open(self, call: Call) -> Upstream:
        raise AssertionError

    async def health(self) -> Health:
        raise AssertionError

    async def aclose(self) -> None:
        pass


def config_of(**settings: Any) -> TargetConfig:
    return CONFIG.validate_python({"type": "openai", **settings})


def target_of(clock: FakeClock, **settings: Any) -> Target:
    config = config_of(**settings)
    return Target(names_of([config])[0], config, NoBackend(), clock)


def targets_of(settings: GatewaySettings, clock: FakeClock) -> dict[str, tuple[Target, ...]]:
    """Those of a whole configuration."""
    configs = [config for model in settings.models.values() for config in model.targets]
    names = iter(names_of(configs))
    return {
        alias: tuple(Target(next(names), config, NoBackend(), clock) for config in model.targets)
        for alias, model in settings.models.items()
    }


def routed_of(
    request: ClientRequest | None = None,
    settings: ModelSettings = SETTINGS,
    *,
    alias: str = "llama",
    targets: tuple[str, ...] = ("target-1",),
    who: str = "",
    no_store: bool = False,
) -> RoutedRequest:
    """A routed request; its targets are never asked."""
    route = Route(alias, "llama", settings, tuple(target_of(FakeClock(), name=name) for name in targets))
    return RoutedRequest(route, request or ClientRequest(path="/chat/completions"), who, no_store)
