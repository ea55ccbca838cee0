"""POST /v1/embeddings: every form of the input and of the vectors, and what is refused."""

import base64
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse

from handler.api import embeddings as module
from handler.api.embeddings import Embeddings
from handler.api.model_names import ServedNames
from handler.api.routes import EmbeddingApi
from handler.api.tokens import Tokens
from handler.embedding.embedder import Embedder
from handler.errors import RequestError
from tests.embedding.fakes import fake_embedder


async def ask(embedder: Embedder, route: str = "/v1/embeddings", **body: Any) -> dict[str, Any]:
    names = ServedNames(("bert", "other"))
    api = EmbeddingApi(Embeddings(embedder, names), Tokens(embedder, names), names)
    answer = await api.call(route, body)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ("abc", [5]),
        (["abc"], [5]),
        (["a", "bcd", "ef"], [3, 5, 4]),
        ([65, 66], [2]),
        ([[65, 66], [65]], [2, 1]),
    ],
)
async def test_forms_of_the_input(given: object, lengths: list[int]) -> None:
    """Texts get the model's own beginning and end, token ids are taken as they are; all of them are counted."""
    with fake_embedder() as (embedder, _):
        answer = await ask(embedder, model="other", input=given, normalize=False)

    response = CreateEmbeddingResponse.model_validate(answer)
    assert [int(item.embedding[0]) for item in response.data] == lengths
    assert [item.index for item in response.data] == list(range(len(lengths)))
    assert response.model == "other"
    assert response.usage.prompt_tokens == response.usage.total_tokens == sum(lengths)


async def test_vectors_have_length_one() -> None:
    """Also those that are cut, which is done before."""
    with fake_embedder() as (embedder, _):
        whole = (await ask(embedder, input="abc"))["data"][0]["embedding"]
        cut = (await ask(embedder, input="abc", dimensions=2))["data"][0]["embedding"]

    assert np.linalg.norm(whole) == pytest.approx(1)
    assert whole[1] / whole[0] == pytest.approx(1 / 5)
    assert len(cut) == 2
    assert np.linalg.norm(cut) == pytest.approx(1)
    assert cut[1] / cut[0] == pytest.approx(1 / 5)


async def test_base64() -> None:
    """Little-endian float32, as OpenAI's clients read it, with the same numbers."""
    with fake_embedder() as (embedder, _):
        numbers = (await ask(embedder, input=["abc", "d"]))["data"]
        encoded = (await ask(embedder, input=["abc", "d"], encoding_format="base64", user="me"))["data"]

    for plain, item in zip(numbers, encoded, strict=True):
        assert np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist() == plain["embedding"]


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({}, "input", "invalid_request_error", "is missing"),
        ({"input": ""}, "input", "invalid_request_error", "must not be empty"),
        ({"input": []}, "input", "invalid_request_error", "not empty"),
        ({"input": ["a", ""]}, "input[1]", "invalid_request_error", "must not be empty"),
        ({"input": ["a", [65]]}, "input", "invalid_request_error", "must be a text"),
        ({"input": {"text": "a"}}, "input", "invalid_request_error", "must be a text"),
        ({"input": 2049 * ["a"]}, "input", "invalid_request_error", "at most 2048 inputs"),
        ({"input": [65, 100_000]}, "input", "invalid_request_error", "not in the vocabulary"),
        ({"input": ["a", 15 * "a"]}, "input[1]", "context_length_exceeded", "16 tokens at most, but 'input[1]' has 17"),
        ({"input": "a", "dimensions": 5}, "dimensions", "invalid_request_error", "at most 4"),
        ({"input": "a", "dimensions": 0}, "dimensions", "invalid_request_error", "at least 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_request_error", "float"),
        ({"input": "a", "input_type": "query"}, "input_type", "unsupported_parameter", "into the text"),
        ({"input": "a", "model": "gpt"}, "model", "model_not_found", "does not exist"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_request_error", "at least 1"),
    ],
)
async def test_what_is_refused(body: dict[str, Any], param: str, code: str, words: str) -> None:
    """With the field's name, and nothing is computed."""
    with fake_embedder() as (embedder, runner), pytest.raises(RequestError) as caught:
        await ask(embedder, **body)

    assert (caught.value.param, caught.value.code) == (param, code)
    assert words in str(caught.value)
    assert not runner.batches


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"truncate": True}, 16),
        ({"truncate": "END"}, 16),
        ({"truncate_prompt_tokens": -1}, 16),
        ({"truncate_prompt_tokens": 5}, 5),
        ({"truncate_prompt_tokens": 1000}, 16),
    ],
)
async def test_long_inputs_are_cut_where_it_is_asked_for(fields: dict[str, Any], length: int) -> None:
    """What is kept ends as the model's inputs do."""
    with fake_embedder() as (embedder, runner):
        answer = await ask(embedder, input=100 * "a", **fields)

    assert answer["usage"]["prompt_tokens"] == length
    assert runner.batches[0][0][-1] == 2


async def test_too_many_tokens_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUEST_TOKENS", 10)
    with fake_embedder() as (embedder, _), pytest.raises(RequestError, match="more than 10 tokens together"):
        await ask(embedder, input=["abc", "abc", "abc"])


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/rerank"])
async def test_routes_of_other_models(route: str) -> None:
    """Are a 400 that says what this one can."""
    with (
        fake_embedder() as (embedder, _),
        pytest.raises(RequestError, match="makes vectors, at /v1/embeddings") as caught,
    ):
        await ask(embedder, route, input="a")

    assert (caught.value.status, caught.value.code) == (400, "model_not_supported")


async def test_tokenize() -> None:
    """The same routes as a model has that generates."""
    with fake_embedder() as (embedder, _):
        answer = await ask(embedder, "/tokenize", prompt="ab")
        back = await ask(embedder, "/detokenize", tokens=[97, 98])

    assert answer == {"tokens": [1, 97, 98, 2], "count": 4, "max_model_len": 16}
    assert back["content"] == "ab"
