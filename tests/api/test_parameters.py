"""No field that would change an answer is ignored: one table says what becomes of every name that clients send."""

import logging
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as OpenAIChat
from openai.types.completion_create_params import CompletionCreateParamsBase as OpenAICompletion

from builder.api_reference import api_reference
from handler.api import parameters
from handler.api.parameters import OBEYED, Route, harmless, refused
from handler.api.protocol import ChatCompletionRequest, CompletionRequest, GenerationRequest, InfillRequest, parse
from handler.errors import InvalidRequestError
from tests.api.field_names import names_of

ROUTES: tuple[Route, ...] = (
    "chat",
    "completions",
    "infill",
)  # of models that generate; test_pooled_parameters has the others
MODELS: dict[Route, type[GenerationRequest]] = {
    "chat": ChatCompletionRequest,
    "completions": CompletionRequest,
    "infill": InfillRequest,
}
BODIES: dict[Route, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"prompt": "Hi"},
    "infill": {"input_prefix": "Hi"},
}
OF_OPENAI: dict[Route, type] = {"chat": OpenAIChat, "completions": OpenAICompletion}


@pytest.mark.parametrize("route", ROUTES)
def test_the_table_is_what_the_models_read(route: Route) -> None:
    """A name cannot be called obeyed and not be read, nor be read and not be listed; no name is in two lists."""
    assert names_of(MODELS[route]) == OBEYED[route]
    assert not OBEYED[route] & harmless(route).keys()
    assert not OBEYED[route] & refused(route).keys()
    assert not harmless(route).keys() & refused(route).keys()


@pytest.mark.parametrize("route", OF_OPENAI)
def test_every_parameter_of_openai_is_in_it(route: Route) -> None:
    """The installed package's types are walked: a new one fails here until it is decided on."""
    known = OBEYED[route] | harmless(route).keys() | refused(route).keys()
    assert {*OF_OPENAI[route].__annotations__, "stream"} - known == set()


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_refused(route: Route) -> None:
    """Each by its name; with a value that asks for nothing it passes, and null is an absent field."""
    for name, refusal in refused(route).items():
        with pytest.raises(InvalidRequestError) as caught:
            parse(MODELS[route], {**BODIES[route], name: "something"})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
        for neutral in (None, *refusal.neutral):
            parse(MODELS[route], {**BODIES[route], name: neutral})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("mirostat", 2),
        ("prompt_logprobs", True),
        ("lora", [{"id": 0}]),
        ("n_probs", 5),
    ],
)
def test_values_that_ask_for_something(name: str, value: object) -> None:
    """1 is not true, and a longer list is another list."""
    with pytest.raises(InvalidRequestError, match=f"'{name}' is not supported"):
        parse(ChatCompletionRequest, {**BODIES["chat"], name: value})


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_harmless(route: Route) -> None:
    """It passes, whatever it holds."""
    for name in harmless(route):
        assert parse(MODELS[route], {**BODIES[route], name: 42}) == parse(MODELS[route], BODIES[route])


def test_unknown_names(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """They pass with one line in the log, however often they come, and do not fill it; they are named for DEBUG."""
    monkeypatch.setattr(parameters, "_reported", set())
    with caplog.at_level(logging.DEBUG, "handler.api.parameters"):
        for number in range(1000):
            parse(ChatCompletionRequest, {**BODIES["chat"], "some_new\nfield": 1, f"x{number}": 1, "y": None})

    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    named = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(told) == len(named) == parameters.MAX_REPORTED
    assert not any("some_new" in message for message in told)
    assert "'some_new\\nfield'" in named[0]


def test_the_documentation_is_the_table() -> None:
    """docs/api.md is written from it: `make docs`."""
    assert (Path(__file__).parents[2] / "docs" / "api.md").read_text() == api_reference()
