"""The tools of a chat: which there are, which may be called, and whether one must be. Validated once.

OpenAI's older `functions` and `function_call` say the same in other words; `is_old` remembers to answer in them. Errors
are InvalidRequestErrors with `param`. Whether a strict schema can be followed shows when its grammar is compiled.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handler.api.fields import show, unsupported
from handler.chat.call_grammar import GrammarTool
from handler.errors import InvalidRequestError

MAX_TOOLS = 512
NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")  # OpenAI's have 64; servers of the Model Context Protocol write more
REQUIRED = ("required", "any")  # LangChain's word

Choice = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class ToolRequest:
    """`tools` are in OpenAI's form, for the template; `allowed` are the names that may be called.

    With choice `none` nothing is called, and the tools stand in the prompt all the same: so it begins as it did before,
    and its prefix is found in the cache.
    """

    tools: tuple[dict[str, Any], ...] = ()
    choice: Choice = "none"
    allowed: tuple[str, ...] = ()
    is_parallel: bool = True
    is_old: bool = False

    @property
    def is_required(self) -> bool:
        return self.choice == "required"

    @property
    def needs_grammar(self) -> bool:
        """Calls are held to a grammar where one must come, where one that may come is strict, and where not all tools
        or not several calls are allowed."""
        if self.choice != "auto" or self.is_required:
            return self.is_required
        is_narrowed = len(self.allowed) < len(self.tools) or not (self.is_parallel or self.is_old)
        return is_narrowed or any(tool.is_strict for tool in self.grammar_tools())

    def grammar_tools(self) -> list[GrammarTool]:
        """Those that may be called."""
        functions = [tool["function"] for tool in self.tools if tool["function"]["name"] in self.allowed]
        return [
            GrammarTool(function["name"], function.get("parameters") or {}, function.get("strict") is True)
            for function in functions
        ]


def parse_tools(tools: object, choice: object, parallel: bool | None) -> ToolRequest:
    """`tools`, `tool_choice` and `parallel_tool_calls`. An empty list is no tools, null is absent."""
    parsed = _parse_list(tools, "tools", _parse_tool)
    names = _unique_names(parsed, "tools")
    kind, allowed = _parse_choice(choice, names)
    return ToolRequest(parsed, kind, allowed, is_parallel=parallel is not False)


def parse_functions(functions: object, function_call: object) -> ToolRequest:
    """The older form. It knows one call in an answer."""
    parsed = _parse_list(functions, "functions", lambda value, param: _as_tool(_parse_function(value, param)))
    names = _unique_names(parsed, "functions")
    if isinstance(function_call, dict):
        name = function_call.get("name")
        if name not in names:
            raise _wrong("function_call", f"names no function of this request: {show(name)}")
        return ToolRequest(parsed, "required", (str(name),), is_parallel=False, is_old=True)
    if function_call not in (None, "none", "auto"):
        raise _wrong("function_call", f"must be none, auto or an object with a name (got {show(function_call)})")
    choice: Choice = "none" if function_call == "none" or not parsed else "auto"
    return ToolRequest(parsed, choice, names if choice == "auto" else (), is_parallel=False, is_old=True)


def _parse_list(values: object, param: str, parse: Any) -> tuple[dict[str, Any], ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise _wrong(param, f"must be a list (got {show(values)})")
    if len(values) > MAX_TOOLS:
        raise _wrong(param, f"may hold at most {MAX_TOOLS} tools (got {len(values)})")
    return tuple(parse(value, f"{param}[{i}]") for i, value in enumerate(values))


def _parse_tool(value: object, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(param, f"must be an object (got {show(value)})")
    kind = value.get("type", "function")
    if kind != "function":
        raise unsupported(f"{param}.type", f"of tools this worker knows functions alone (got {show(kind)})")
    if "function" not in value:
        raise _wrong(f"{param}.function", "is missing")
    return _as_tool(_parse_function(value["function"], f"{param}.function"))


def _as_tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _parse_function(value: object, param: str) -> dict[str, Any]:
    """The function as it came, without its null fields."""
    if not isinstance(value, dict):
        raise _wrong(param, f"must be an object (got {show(value)})")
    function = {key: item for key, item in value.items() if item is not None}
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        got = f"got {show(name)}" if "name" in function else "it is missing"
        raise _wrong(f"{param}.name", f"must be 1 to 128 of the characters A-Z a-z 0-9 _ - . : / ({got})")
    for key, kind, words in (("description", str, "a text"), ("strict", bool, "true or false")):
        if not isinstance(function.get(key, kind()), kind):
            raise _wrong(f"{param}.{key}", f"must be {words} (got {show(function[key])})")
    _check_parameters(function.get("parameters", {}), f"{param}.parameters")
    return function


def _check_parameters(schema: object, param: str) -> None:
    if not isinstance(schema, Mapping):
        raise _wrong(param, f"must be a JSON schema (got {show(schema)})")
    if schema.get("type", "object") != "object":
        raise _wrong(f"{param}.type", f"must be object: arguments have names (got {show(schema['type'])})")
    if not isinstance(schema.get("properties", {}), Mapping):
        raise _wrong(f"{param}.properties", f"must be an object (got {show(schema['properties'])})")


def _unique_names(tools: Sequence[dict[str, Any]], param: str) -> tuple[str, ...]:
    names = tuple(str(tool["function"]["name"]) for tool in tools)
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise _wrong(param, f"has the name {show(twice)} twice")
    return names


def _parse_choice(choice: object, names: tuple[str, ...]) -> tuple[Choice, tuple[str, ...]]:
    """The kind of choice, and the names that may be called."""
    if choice is None:
        choice = "auto" if names else "none"
    if choice == "none":
        return "none", ()
    if choice == "auto":
        return ("auto", names) if names else ("none", ())
    if choice in REQUIRED:
        if not names:
            raise _wrong("tool_choice", "requires a call, and there are no tools")
        return "required", names
    if not isinstance(choice, dict):
        raise _wrong("tool_choice", f"must be none, auto, required or an object (got {show(choice)})")
    if choice.get("type") == "allowed_tools":
        return _parse_allowed(choice.get("allowed_tools", choice), names)
    if choice.get("type", "function") != "function":
        raise unsupported(
            "tool_choice.type", f"this worker knows function and allowed_tools (got {show(choice['type'])})"
        )
    return "required", (_named(choice, "tool_choice", names),)


def _parse_allowed(allowed: object, names: tuple[str, ...]) -> tuple[Choice, tuple[str, ...]]:
    """Some of the tools, of which one may or must be called. The prompt keeps all of them."""
    param = "tool_choice.allowed_tools"
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(allowed, dict) or not isinstance(tools, list) or not tools:
        raise _wrong(param, "must hold a mode and a list of tools")
    mode = allowed.get("mode", "auto")
    if mode not in ("auto", "required"):
        raise _wrong(f"{param}.mode", f"must be auto or required (got {show(mode)})")
    chosen = tuple(_named(tool, f"{param}.tools[{i}]", names) for i, tool in enumerate(tools))
    return mode, tuple(name for name in names if name in chosen)


def _named(value: object, param: str, names: tuple[str, ...]) -> str:
    """The tool that `{"function": {"name"}}` or `{"name"}` speaks of."""
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise _wrong(param, f"names no tool of this request: {show(name)}")
    return str(name)


def _wrong(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' {reason}", param=param)
