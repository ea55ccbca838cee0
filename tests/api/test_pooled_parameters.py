"""The table of fields, for the routes of models that pool."""

from typing import Any, get_args

import pytest
from openai.types.embedding_create_params import EmbeddingCreateParams

from handler.api.parameters import OBEYED, POOLED, TRANSLATED, Route, harmless, refused
from handler.api.pooled_requests import EmbeddingRequest, PooledRequest, RerankRequest, parse_pooled
from handler.errors import InvalidRequestError
from tests.api.field_names import names_of

MODELS: dict[Route, type[PooledRequest]] = {"embeddings": EmbeddingRequest, "rerank": RerankRequest}
BODIES: dict[Route, dict[str, Any]] = {
    "embeddings": {"input": "a"},
    "rerank": {"query": "q", "documents": ["a"]},
}


def test_every_route_is_tested() -> None:
    """Here, in test_parameters or in test_translated_parameters."""
    assert set(get_args(Route)) == {"chat", "completions", "infill", *TRANSLATED, *POOLED}


@pytest.mark.parametrize("route", POOLED)
def test_the_table_is_what_the_models_read(route: Route) -> None:
    """No name is in two lists."""
    assert names_of(MODELS[route]) == OBEYED[route]
    assert not OBEYED[route] & (harmless(route).keys() | refused(route).keys())
    assert not harmless(route).keys() & refused(route).keys()


def test_every_parameter_of_openai_is_in_it() -> None:
    """The installed package's types are walked: a new one fails here until it is decided on."""
    known = OBEYED["embeddings"] | harmless("embeddings").keys() | refused("embeddings").keys()
    assert set(EmbeddingCreateParams.__annotations__) - known == set()


@pytest.mark.parametrize("route", POOLED)
def test_what_is_refused_and_what_passes(route: Route) -> None:
    """Refused by its name, but for values that ask for nothing; harmless fields may hold anything."""
    for name, refusal in refused(route).items():
        with pytest.raises(InvalidRequestError) as caught:
            parse_pooled(MODELS[route], route, {**BODIES[route], name: "something"})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        for neutral in (None, *refusal.neutral):
            parse_pooled(MODELS[route], route, {**BODIES[route], name: neutral})
    for name in harmless(route):
        parse_pooled(MODELS[route], route, {**BODIES[route], name: 42})
