"""From the model a client names to the targets that may answer, in the order in which they are asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from local_gateway.config.settings import GatewaySettings, ModelSettings
from local_gateway.errors import ModelNotFoundError
from local_gateway.routing.target import Target


class Choice(NamedTuple):
    """A target, and the model to ask it for, in its own words."""

    target: Target
    model_name: str


@dataclass(frozen=True, slots=True)
class Route:
    """A model: who answers for it, and which models do if they cannot."""

    alias: str  # as configured: perhaps a pattern
    model: str  # as the client said
    settings: ModelSettings
    targets: tuple[Target, ...]
    fallbacks: tuple["Route", ...] = ()  # all of them, in order; these have none of their own

    def order(self, rng: Random) -> list[Choice]:
        """All choices, best first: by priority, inside of one by chance and weight; then those of the fallbacks."""
        return [choice for route in (self, *self.fallbacks) for choice in route._own_order(rng)]

    def choices(self) -> list[Choice]:
        """Its own, without those of the fallbacks, in no order."""
        return [Choice(target, target.settings.model or self.model) for target in self.targets]

    def _own_order(self, rng: Random) -> Iterator[Choice]:
        # Of waiting times drawn with these rates, a target's is the shortest as often as its share of the weights.
        by_priority = sorted(self.targets, key=lambda t: (t.settings.priority, rng.expovariate(t.settings.weight)))
        for target in by_priority:
            yield Choice(target, target.settings.model or self.model)


class Router:
    """The routes of one configuration. Knows nothing of keys: who may use a model is decided elsewhere."""

    def __init__(self, settings: GatewaySettings, targets: Mapping[str, tuple[Target, ...]]) -> None:
        """`targets` by the models' configured names."""
        self._settings = settings
        self._targets = targets

    def resolve(self, model: str) -> Route:
        """The route of a model by the name a client used.

        Raises:
            ModelNotFoundError: No model has this name.
        """
        routes = [self._resolve_alone(model)]
        for route in routes:  # it grows meanwhile: what a model names itself comes before what its fallbacks name
            known = {route.model for route in routes}
            routes += [
                self._resolve_alone(name) for name in dict.fromkeys(route.settings.fallbacks) if name not in known
            ]
        first, *fallbacks = routes
        return Route(first.alias, model, first.settings, first.targets, tuple(fallbacks))

    def route_without_model(self) -> Route | None:
        """For requests that name no model, such as /files: the first of the OpenAI targets by priority, or None.

        Nothing that is configured for its model goes along: fallbacks, cold start, cache.
        """
        routes = [
            Route(alias, "", ModelSettings(targets=(target.settings,)), (target,))
            for alias, targets in self._targets.items()
            for target in targets
            if target.settings.type == "openai"
        ]
        return min(routes, key=lambda route: route.targets[0].settings.priority, default=None)

    def _resolve_alone(self, model: str) -> Route:
        alias = self._settings.find(model)
        if alias is None:
            raise not_found(model)
        return Route(alias, model, self._settings.models[alias], self._targets[alias])


def not_found(model: str) -> ModelNotFoundError:
    """Also for a model that the key must not use: nobody learns which models there are."""
    return ModelNotFoundError(f"The model `{model:.200}` does not exist or you do not have access to it.")
