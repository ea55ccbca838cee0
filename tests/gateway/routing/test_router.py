"""From a model's name to targets in order."""

from collections import Counter
from random import Random
from typing import Any

import pytest

from local_gateway.config.settings import GatewaySettings
from local_gateway.errors import ModelNotFoundError
from local_gateway.routing.router import Route, Router
from tests.gateway.targets.never_asked import FakeClock, targets_of


def router_of(**models: Any) -> Router:
    settings = GatewaySettings.model_validate({"models": models})
    return Router(settings, targets_of(settings, FakeClock()))


def model(*names: str, fallbacks: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """With targets of these names."""
    return {"targets": [{"type": "openai", "name": name, **settings} for name in names], "fallbacks": fallbacks}


def order_of(route: Route, seed: int = 0) -> list[tuple[str, str]]:
    return [(choice.target.name, choice.model_name) for choice in route.order(Random(seed))]


# Which route


def test_a_name() -> None:
    """The route knows what was asked and what is configured."""
    route = router_of(llama=model("a"), other=model("b")).resolve("llama")

    assert (route.alias, route.model, [target.name for target in route.targets]) == ("llama", "llama", ["a"])
    assert route.settings.targets[0].name == "a"


def test_a_pattern() -> None:
    """Its target is asked for what the client asked for."""
    route = router_of(**{"gpt-*": model("a")}).resolve("gpt-4o")

    assert (route.alias, route.model, order_of(route)) == ("gpt-*", "gpt-4o", [("a", "gpt-4o")])


@pytest.mark.parametrize(
    ("asked", "alias"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-mini", "gpt-4*"),
        ("gpt-5", "gpt-*"),
        ("llama", "*"),
        ("", "*"),
    ],
)
def test_the_closest_name_wins(asked: str, alias: str) -> None:
    """The name itself before patterns, longer patterns before shorter ones."""
    models = {name: model("t") for name in ("*", "gpt-*", "gpt-4*", "gpt-4o")}
    assert router_of(**models).resolve(asked).alias == alias


def test_a_targets_own_name_of_the_model() -> None:
    """Is the one that it is asked for."""
    route = router_of(llama=model("a", model="meta/llama-3")).resolve("llama")
    assert order_of(route) == [("a", "meta/llama-3")]


@pytest.mark.parametrize("name", ["nothing", "", "LLAMA", "llama ", "gpt-4o"])
def test_no_such_model(name: str) -> None:
    """OpenAI's words and code."""
    with pytest.raises(ModelNotFoundError) as caught:
        router_of(llama=model("a")).resolve(name)
    assert str(caught.value) == f"The model `{name}` does not exist or you do not have access to it."
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_very_long_name() -> None:
    """Does not come back as a very long message."""
    with pytest.raises(ModelNotFoundError) as caught:
        router_of(llama=model("a")).resolve("x" * 1_000_000)
    assert len(str(caught.value)) < 300


# In which order


def test_priorities() -> None:
    """Smaller numbers first, however small their weight."""
    targets = [
        {"type": "openai", "name": "last", "priority": 3, "weight": 1000},
        {"type": "openai", "name": "first", "priority": 1, "weight": 0.001},
        {"type": "openai", "name": "second", "priority": 2},
    ]
    route = router_of(llama={"targets": targets}).resolve("llama")

    for seed in range(50):
        assert [name for name, _ in order_of(route, seed)] == ["first", "second", "last"]


def test_weights() -> None:
    """Of 6,000 requests each target gets its share first; and all targets are in every order."""
    targets = [{"type": "openai", "name": name, "weight": weight} for name, weight in [("a", 3), ("b", 2), ("c", 1)]]
    route = router_of(llama={"targets": targets}).resolve("llama")
    rng = Random(1)

    orders = [tuple(choice.target.name for choice in route.order(rng)) for _ in range(6000)]

    firsts = Counter(order[0] for order in orders)
    assert [firsts[name] for name in "abc"] == pytest.approx([3000, 2000, 1000], abs=150)  # four standard deviations
    assert {frozenset(order) for order in orders} == {frozenset("abc")}


def test_fallbacks_come_last() -> None:
    """Each asked for by its own name."""
    route = router_of(a=model("a1", fallbacks=("b", "gpt-4o")), b=model("b1"), **{"gpt-*": model("g1")}).resolve("a")
    assert order_of(route) == [("a1", "a"), ("b1", "b"), ("g1", "gpt-4o")]


def test_fallbacks_of_fallbacks() -> None:
    """Come after those that the model names itself."""
    models = {
        "a": model("a1", fallbacks=("b", "c")),
        "b": model("b1", fallbacks=("d",)),
        "c": model("c1"),
        "d": model("d1"),
    }
    assert [name for name, _ in order_of(router_of(**models).resolve("a"))] == ["a1", "b1", "c1", "d1"]


def test_fallbacks_in_a_circle() -> None:
    """No target is asked twice."""
    models = {
        "a": model("a1", fallbacks=("b", "b")),
        "b": model("b1", fallbacks=("c", "a")),
        "c": model("c1", fallbacks=("a", "b")),
    }
    router = router_of(**models)
    assert [name for name, _ in order_of(router.resolve("a"))] == ["a1", "b1", "c1"]
    assert [name for name, _ in order_of(router.resolve("b"))] == ["b1", "c1", "a1"]


# Without a model


def test_paths_without_a_model() -> None:
    """Go to the OpenAI target with the smallest priority, and to no other."""
    queue = {"type": "runpod_queue", "endpoint_id": "e", "api_key": "k"}
    route = router_of(
        llama={"targets": [queue]},
        a=model("a1", fallbacks=("b",), priority=2),
        b=model("b1", fallbacks=("c",)),
        c=model("c1"),
    ).route_without_model()

    assert route is not None
    assert (route.alias, order_of(route), route.settings.fallbacks) == ("b", [("b1", "")], ())


def test_paths_without_a_model_and_without_openai() -> None:
    """No target serves them."""
    assert router_of(llama={"targets": [{"type": "local"}]}).route_without_model() is None
