"""llama.cpp's 70 templates: ours renders what transformers renders, and equally."""

import copy
import json
from typing import Any, NoReturn

import pytest
from jinja2 import Environment, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from handler.chat.sandbox import Program
from tests.chat.llama_templates import llama_templates

pytestmark = pytest.mark.model

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, if it's > 0 & known",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich <3"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": " What is the weather?\n"}
ANSWER = {"role": "assistant", "content": "Sunny, <b>I</b> guess."}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"sun": "always"}'}
THINKING = {**ANSWER, "reasoning_content": "Hm.", "thinking": "Hm."}

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "a question": {"messages": [USER]},
    "with a system message": {"messages": [SYSTEM, USER]},
    "two turns": {"messages": [SYSTEM, USER, ANSWER, USER]},
    "an answer to learn from": {"messages": [USER, ANSWER], "add_generation_prompt": False},
    "reasoning": {"messages": [USER, THINKING, USER]},
    "without thinking": {"messages": [USER], "enable_thinking": False, "thinking": False},
    "tools": {"messages": [SYSTEM, USER], "tools": [TOOL]},
    "a call": {"messages": [USER, CALLING, RESULT], "tools": [TOOL]},
    "an old call": {"messages": [USER, CALLING, RESULT, ANSWER, USER], "tools": [TOOL]},
    "a system message in between": {"messages": [USER, ANSWER, SYSTEM, USER]},
}


class Generation(Extension):
    """The tag that transformers adds."""

    tags = {"generation"}  # noqa: RUF012  Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)


def reference(source: str) -> Any:
    """What `apply_chat_template` compiles, but without a sandbox: it lets Kimi K2's template append to its lists."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, LoopControlExtension])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=lambda form: "today")
    return environment.from_string(source)


def test_what_transformers_renders_ours_renders_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every template and conversation, to the last blank. Ours alone renders JSON of lazy values."""
    monkeypatch.setitem(Program("")._template.environment.globals, "strftime_now", lambda form: "today")
    rendered, only_ours = 0, set()
    for name, source in llama_templates().items():
        expected, program = reference(source), Program(source)
        for conversation in CONVERSATIONS.values():
            variables = {
                "tools": None,
                "documents": None,
                "add_generation_prompt": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                **conversation,
            }
            try:
                text = expected.render(copy.deepcopy(variables))
            except Exception:
                only_ours |= {name} if renders(program, variables) else set()
                continue
            assert program.run(variables) == text, (name, conversation)
            rendered += 1

    assert rendered > len(llama_templates()) * (len(CONVERSATIONS) - 2)
    assert only_ours == {"llama-cpp-deepseek-r1"}


def renders(program: Program, variables: dict[str, Any]) -> bool:
    try:
        program.run(variables)
    except Exception:
        return False
    return True
