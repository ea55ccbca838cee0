"""POST /v1/rerank: documents by their score, in Jina's and Cohere's shape."""

import math
from typing import Any

import pytest

from handler.api.model_names import ServedNames
from handler.api.rerank import Rerank
from handler.api.routes import RerankApi
from handler.api.tokens import Tokens
from handler.embedding.embedder import Embedder
from handler.errors import RequestError
from tests.embedding.fakes import PLAN, fake_embedder

RANKS = PLAN._replace(pooling="rank")


async def ask(embedder: Embedder, route: str = "/v1/rerank", **body: Any) -> dict[str, Any]:
    names = ServedNames(("ranker",))
    answer = await RerankApi(Rerank(embedder, names), Tokens(embedder, names), names).call(route, body)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize("route", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank"])
async def test_the_best_come_first(route: str) -> None:
    """With their place in the request. The score of the fake model is the pair's length minus 4."""
    with fake_embedder(RANKS) as (embedder, _):
        answer = await ask(embedder, route, query="q", documents=["aa", "aaaa", "a"])

    results = answer["results"]
    assert [result["index"] for result in results] == [1, 0, 2]
    assert [result["relevance_score"] for result in results] == pytest.approx(
        [1 / (1 + math.exp(-score)) for score in (2, 0, -1)]
    )
    assert "document" not in results[0]
    assert answer["usage"] == {"prompt_tokens": 13, "total_tokens": 13}
    assert (answer["model"], answer["object"]) == ("ranker", "list")


async def test_options() -> None:
    """The best few, with their texts, and the model's own numbers."""
    documents = [{"text": "aa"}, "aaaa", {"text": "a", "title": "t"}]
    with fake_embedder(RANKS) as (embedder, _):
        answer = await ask(embedder, query="q", documents=documents, top_n=2, return_documents=True, raw_scores=True)

    assert answer["results"] == [
        {"index": 1, "relevance_score": 2.0, "document": {"text": "aaaa"}},
        {"index": 0, "relevance_score": 0.0, "document": {"text": "aa"}},
    ]


async def test_scores_that_are_probabilities_already() -> None:
    """Are sent as they are."""
    with fake_embedder(RANKS) as (embedder, runner):
        runner.is_probability = True
        answer = await ask(embedder, query="q", docs=["aaa"])

    assert answer["results"][0]["relevance_score"] == 1.0


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"documents": ["a"]}, "query", "invalid_request_error"),
        ({"query": "", "documents": ["a"]}, "query", "invalid_request_error"),
        ({"query": "q"}, "documents", "invalid_request_error"),
        ({"query": "q", "documents": []}, "documents", "invalid_request_error"),
        ({"query": "q", "documents": ["a", 5]}, "documents", "invalid_request_error"),
        ({"query": "q", "documents": [{"title": "a"}]}, "documents", "invalid_request_error"),
        ({"query": "q", "documents": 2049 * ["a"]}, "documents", "invalid_request_error"),
        ({"query": "q", "documents": ["a", 20 * "a"]}, "documents[1]", "context_length_exceeded"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n", "invalid_request_error"),
        ({"query": "q", "documents": ["a"], "max_chunks_per_doc": 5}, "max_chunks_per_doc", "unsupported_parameter"),
    ],
)
async def test_what_is_refused(body: dict[str, Any], param: str, code: str) -> None:
    with fake_embedder(RANKS) as (embedder, _), pytest.raises(RequestError) as caught:
        await ask(embedder, **body)

    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


async def test_long_documents_are_cut_where_it_is_asked_for() -> None:
    with fake_embedder(RANKS) as (embedder, _):
        answer = await ask(embedder, query="q", documents=[50 * "a"], truncate=True)

    assert answer["usage"]["total_tokens"] == 16


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/embeddings"])
async def test_routes_of_other_models(route: str) -> None:
    with fake_embedder(RANKS) as (embedder, _), pytest.raises(RequestError, match="ranks documents, at /v1/rerank"):
        await ask(embedder, route, input="a")
