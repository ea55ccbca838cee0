"""Runs a chat template: Jinja as transformers sets it up, in Jinja's own sandbox, within bounds.

A template comes with the model that the operator chose; no client can send one. The sandbox keeps it from Python's
attributes and from the process, the bounds keep a broken one from filling the memory. Its running time is not bounded.

Different from transformers on purpose:

    lists and dicts may be changed    Kimi K2's template appends to its own lists; each run gets copies to change
    `tojson` takes lazy values        what `map` and `select` make is written as a list
    output, source, `range`           are bounded
    other templates                   are not there: `include`, `import` and `extends` find none

Knows nothing about chats.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateRuntimeError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

MAX_SOURCE_CHARS = 100_000  # the longest templates in use have 40,000; compiling can take the square of the length
MAX_OUTPUT_CHARS = 16_000_000  # four million tokens: more than any context holds
# `range` has at most jinja2.sandbox.MAX_RANGE items, 100,000.


class RefusalError(TemplateRuntimeError):
    """The template called `raise_exception`."""


class Program:
    """A compiled template. Runs any number of times, in any thread; no run leaves a trace in another."""

    def __init__(self, source: str) -> None:
        """Raises what Jinja's and Python's compilers raise: syntax errors mostly, RecursionError for deep nesting."""
        if len(source) > MAX_SOURCE_CHARS:
            raise SecurityError(f"it is longer than {MAX_SOURCE_CHARS} characters")
        parsed = _ENVIRONMENT.parse(source)
        self.variables = frozenset(find_undeclared_variables(parsed))  # that it reads
        self._template: Template = _ENVIRONMENT.from_string(parsed)

    def run(self, variables: Mapping[str, object]) -> str:
        """The template's output. Raises whatever the template makes Python raise: any Exception."""
        num_chars = 0
        texts = []
        for text in self._template.generate(_copy(dict(variables))):
            num_chars += len(text)
            if num_chars > MAX_OUTPUT_CHARS:
                raise SecurityError(f"its output is longer than {MAX_OUTPUT_CHARS} characters")
            texts.append(text)
        return "".join(texts)


def _copy(value: Any) -> Any:
    """The value with lists and dicts of its own, all the way down. JSON values have no other parts that change."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: no HTML escapes, and keys keep their order."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_list_of,
    )


def _list_of(value: object) -> list[object]:
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"an object of type {type(value).__name__} has no JSON")


def _raise_exception(message: object) -> NoReturn:
    raise RefusalError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class _Generation(Extension):
    """`{% generation %}` marks what a trainer learns from. Here it is its body."""

    tags = {"generation"}  # noqa: RUF012  Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    extras: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(extras)
    environment.filters["tojson"] = _tojson
    return environment


_ENVIRONMENT = _environment()
