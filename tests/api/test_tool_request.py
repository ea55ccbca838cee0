"""Tools as clients send them, and what becomes of them."""

from typing import Any

import pytest

from handler.api.tool_request import MAX_TOOLS, parse_functions, parse_tools
from handler.errors import InvalidRequestError


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


A, B = tool("a", parameters={"type": "object", "properties": {"x": {"type": "string"}}}), tool("b", strict=True)


@pytest.mark.parametrize(
    ("choice", "kind", "allowed"),
    [
        (None, "auto", ("a", "b")),
        ("auto", "auto", ("a", "b")),
        ("none", "none", ()),
        ("required", "required", ("a", "b")),
        ("any", "required", ("a", "b")),
        ({"type": "function", "function": {"name": "b"}}, "required", ("b",)),
        ({"type": "function", "name": "b"}, "required", ("b",)),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [B]}}, "required", ("b",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "a"}]}, "auto", ("a",)),
    ],
)
def test_the_choice(choice: object, kind: str, allowed: tuple[str, ...]) -> None:
    """All tools stay in the prompt, whichever may be called."""
    request = parse_tools([A, B], choice, None)

    assert (request.choice, request.allowed) == (kind, allowed)
    assert request.tools == (A, B)
    assert [tool.name for tool in request.grammar_tools()] == list(allowed)


def test_when_a_grammar_is_needed() -> None:
    """Where a call must come, or one that may come is strict."""
    assert parse_tools([A], "required", None).needs_grammar
    assert parse_tools([A, B], "auto", None).needs_grammar
    assert not parse_tools([A], "auto", None).needs_grammar
    assert not parse_tools([A, B], "none", None).needs_grammar


def test_what_counts_as_absent() -> None:
    """No tools, an empty list, null fields."""
    absent: tuple[object, ...] = (None, [])
    for tools in absent:
        request = parse_tools(tools, None, None)
        assert (request.tools, request.choice, request.is_parallel) == ((), "none", True)
    assert parse_tools([tool("a", description=None, parameters=None, strict=None)], None, False).tools == (tool("a"),)
    assert not parse_tools([A], None, False).is_parallel


def test_functions_are_tools_of_one_call() -> None:
    """OpenAI's older form; the answer will be in it."""
    request = parse_functions([A["function"]], None)
    assert (request.tools, request.choice, request.is_parallel, request.is_old) == ((A,), "auto", False, True)
    assert parse_functions([A["function"]], {"name": "a"}).allowed == ("a",)
    assert parse_functions([A["function"]], "none").choice == "none"


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ("a", None, "tools"),
        ([A] * (MAX_TOOLS + 1), None, "tools"),
        ([A, A], None, "tools"),
        (["a"], None, "tools[0]"),
        ([A, {"type": "custom", "custom": {}}], None, "tools[1].type"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([{"type": "function", "function": []}], None, "tools[0].function"),
        ([tool("")], None, "tools[0].function.name"),
        ([tool("a b")], None, "tools[0].function.name"),
        ([{"function": {}}], None, "tools[0].function.name"),
        ([tool("a", description=1)], None, "tools[0].function.description"),
        ([tool("a", strict="yes")], None, "tools[0].function.strict"),
        ([tool("a", parameters=[])], None, "tools[0].function.parameters"),
        ([tool("a", parameters={"type": "array"})], None, "tools[0].function.parameters.type"),
        ([tool("a", parameters={"properties": []})], None, "tools[0].function.parameters.properties"),
        ([A], "always", "tool_choice"),
        ([A], 1, "tool_choice"),
        ([], "required", "tool_choice"),
        ([A], {"type": "function", "function": {"name": "b"}}, "tool_choice"),
        ([A], {"type": "function"}, "tool_choice"),
        ([A], {"type": "mcp"}, "tool_choice.type"),
        ([A], {"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ([A], {"type": "allowed_tools", "allowed_tools": {"tools": []}}, "tool_choice.allowed_tools"),
        ([A], {"type": "allowed_tools", "mode": "none", "tools": [A]}, "tool_choice.allowed_tools.mode"),
        ([A], {"type": "allowed_tools", "tools": [B]}, "tool_choice.allowed_tools.tools[0]"),
    ],
)
def test_what_is_wrong_is_named(tools: object, choice: object, param: str) -> None:
    """By the field's path."""
    with pytest.raises(InvalidRequestError) as raised:
        parse_tools(tools, choice, None)

    assert raised.value.param == param
    assert f"'{param}'" in str(raised.value)


@pytest.mark.parametrize("call", ["always", {"name": "b"}, {}])
def test_a_wrong_function_call(call: object) -> None:
    """Likewise."""
    with pytest.raises(InvalidRequestError) as raised:
        parse_functions([A["function"]], call)

    assert raised.value.param == "function_call"
