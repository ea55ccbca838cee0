"""From the model that a client names to the targets that may answer, in the order in which they are asked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from local_gateway.config.settings import GatewaySettings, ModelSettings
from local_gateway.errors import ModelNotFoundError
from local_gateway.routing.target import Target


class Choice(NamedTuple):
    """A target, and the model to ask it for."""

    target: Target
    model_name: str  # the target's own name for it


@dataclass(frozen=True, slots=True)
class Route:
    """A model: the targets that answer for it, and the models that do where these cannot."""

    alias: str  # as configured: perhaps a pattern
    model: str  # as the client said
    settings: ModelSettings
    targets: tuple[Target, ...]
    fallbacks: tuple["Route", ...] = ()  # all of them, in order; these have none of their own
    context_fallbacks: tuple["Route", ...] = ()  # for requests that are too long for the others; likewise
    while_cold: "Route | None" = None  # of `cold_start`

    @property
    def all_routes(self) -> list["Route"]:
        """Itself, and every other route whose targets may come to answer, whatever happens."""
        return [
            self,
            *self.fallbacks,
            *self.context_fallbacks,
            *(self.while_cold.all_routes if self.while_cold else ()),
        ]

    def order(self, rng: Random) -> list[Choice]:
        """All choices, best first: by priority, inside of one by chance and weight; then those of the fallbacks."""
        return [choice for route in (self, *self.fallbacks) for choice in route._own_order(rng)]

    def choices(self) -> list[Choice]:
        """Its own, without those of the fallbacks, in no order."""
        return [Choice(target, target.settings.model or self.model) for target in self.targets]

    def order_for_long_requests(self, rng: Random) -> list[Choice]:
        """Likewise of the context fallbacks."""
        return [choice for route in self.context_fallbacks for choice in route._own_order(rng)]

    def _own_order(self, rng: Random) -> Iterator[Choice]:
        # Of waiting times drawn with these rates, a target's is the shortest as often as its share of the weights.
        by_priority = sorted(self.targets, key=lambda t: (t.settings.priority, rng.expovariate(t.settings.weight)))
        for target in by_priority:
            yield Choice(target, target.settings.model or self.model)


class Router:
    """The routes of one configuration. Immutable. Knows nothing of keys and of what they may use."""

    def __init__(self, settings: GatewaySettings, targets: Mapping[str, tuple[Target, ...]]) -> None:
        """`targets` by the models' configured names."""
        self._settings = settings
        self._targets = targets

    def resolve(self, model: str) -> Route:
        """The route of a model by the name a client used.

        Raises:
            ModelNotFoundError: No model has this name.
        """
        route = self._with_fallbacks(model)
        cold = route.settings.cold_start
        return replace(route, while_cold=self._with_fallbacks(cold.use)) if cold else route

    def _with_fallbacks(self, model: str) -> Route:
        alone = self._resolve_alone(model)
        if not (alone.settings.fallbacks or alone.settings.context_fallbacks):
            return alone
        routes = [alone]
        for route in routes:  # it grows meanwhile: what a model names itself comes before what its fallbacks name
            known = {route.model for route in routes}
            routes += [
                self._resolve_alone(name) for name in dict.fromkeys(route.settings.fallbacks) if name not in known
            ]
        first, *fallbacks = routes
        larger = [self._resolve_alone(name) for name in dict.fromkeys(first.settings.context_fallbacks)]
        return replace(first, fallbacks=tuple(fallbacks), context_fallbacks=tuple(larger))

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
    """Also for a model that the key must not use: a client does not learn which models there are."""
    return ModelNotFoundError(f"The model `{model:.200}` does not exist or you do not have access to it.")
