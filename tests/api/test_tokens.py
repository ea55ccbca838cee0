"""Tokens without answers: /tokenize and /detokenize in both forms, and a chat's prompt counted."""

from typing import Any

import pytest

from handler.api.routes import COUNT, DETOKENIZE, TOKENIZE
from handler.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError
from tests.engine.fakes import CONTROL
from tests.fake_worker import Json, fake_worker


async def call(route: str, body: object) -> Json:
    with fake_worker() as worker:
        answer = await worker.api.call(route, body, "POST")
    assert isinstance(answer, dict)
    return answer


async def test_tokenize() -> None:
    """llama-server's form by `content`, vLLM's by `prompt`."""
    assert await call(TOKENIZE, {"content": "Hi"}) == {"tokens": [72, 105]}
    assert await call("/tokenize", {"content": "é", "with_pieces": True}) == {
        "tokens": [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]
    }
    assert await call(TOKENIZE, {"prompt": "Hi", "model": "llama"}) == {
        "tokens": [72, 105],
        "count": 2,
        "max_model_len": 1000,
    }
    assert await call(TOKENIZE, {"content": ""}) == {"tokens": []}


async def test_detokenize() -> None:
    """The text under both names."""
    assert await call(DETOKENIZE, {"tokens": [72, 105, CONTROL]}) == {"content": "Hi", "prompt": "Hi"}
    assert await call("/detokenize", {"tokens": []}) == {"content": "", "prompt": ""}


async def test_count() -> None:
    """As many as the answer would say in its usage."""
    with fake_worker() as worker:
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        counted = await worker.api.call(COUNT, chat)
        answer = await worker.chat()
    assert counted == {"object": "response.input_tokens", "input_tokens": answer["usage"]["prompt_tokens"]}


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (TOKENIZE, {}, "content"),
        (TOKENIZE, {"content": 5}, "content"),
        (TOKENIZE, [], None),
        (DETOKENIZE, {}, "tokens"),
        (DETOKENIZE, {"tokens": [5, -1]}, "tokens"),
        (DETOKENIZE, {"tokens": [True]}, "tokens"),
        (DETOKENIZE, {"tokens": [10**6]}, "tokens"),
        (COUNT, {}, "messages"),
    ],
)
async def test_wrong_bodies(route: str, body: Any, param: str | None) -> None:
    """Each names its field."""
    with pytest.raises(InvalidRequestError) as caught:
        await call(route, body)
    assert caught.value.param == param
    assert not isinstance(caught.value, ContextLengthError)


async def test_unknown_model() -> None:
    """As everywhere."""
    with pytest.raises(ModelNotFoundError):
        await call(TOKENIZE, {"content": "Hi", "model": "gpt-5"})
