"""`python -m handler parse`: a model's raw text as the chat route would answer it.

    python -m handler parse --template FILE [--tools FILE] [--request FILE] [--chunk N]

Reads the text on stdin and prints one JSON object: the assistant's message, with its `finish_reason` beside it. It is
how a broken format is reported, and how the formats are tested: it needs no model and no llama.cpp.

Without a vocabulary no marker is known to be a token, so the text of a marker counts as the marker.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from handler.chat.events import Event
from handler.chat.message import MessageBuilder
from handler.chat.output import OutputParser
from handler.chat.reasoning import ReasoningState, thinking_variables
from handler.chat.template import ChatTemplate
from handler.chat.tools import Tools
from handler.errors import WorkerError

WRONG_USAGE = 2
# Tokens that end an answer: an engine stops at them, text from elsewhere may end in one.
TURN_ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<end_of_turn>", "<turn|>"),
    *(
        "<|END_OF_TURN_TOKEN|>",
        "<｜end▁of▁sentence｜>",
        "<|user|>",
        "<|observation|>",
        "<|role_end|>",
        "[e~[",
        "<seed:eos>",
    ),
    *("<|eot|>", "<|tool_response>", "<|message_sep|>", "<end_of_sentence>", "<|end_of_msg|>", "<|return|>"),
)


class _UsageError(Exception):
    """A file that is no template, no tools or no request."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def run(argv: list[str]) -> int:
    """The exit status: 2, after one line on stderr, if a file cannot be used."""
    try:
        args = _arguments(argv)
        print_answer = _prepare(args)
    except (_UsageError, WorkerError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return WRONG_USAGE
    text = sys.stdin.buffer.read().decode(errors="replace")
    sys.stdout.write(json.dumps(print_answer(text), ensure_ascii=False) + "\n")
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m handler parse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--template", type=Path, required=True, help="a file with the model's chat template")
    parser.add_argument("--tools", type=Path, help="a file with the request's tools, a JSON list")
    parser.add_argument(
        "--request", type=Path, help="a file with the chat's body: its prompt says what has been opened"
    )
    parser.add_argument("--chunk", type=int, default=0, help="characters to feed at a time; all at once without it")
    args = parser.parse_args(argv)
    if args.chunk < 0:
        raise _UsageError("--chunk must be a number of characters")
    return args


def _prepare(args: argparse.Namespace) -> Callable[[str], dict[str, Any]]:
    """Reads all files; what it returns makes the answer of a text."""
    source = _read(args.template)
    template = ChatTemplate(source, bos_token="", eos_token="")
    request = _object(args.request) if args.request else {}
    tools = _tools(args.tools, request)
    starts_in = _starts_in(template, request, tools) if args.request else ReasoningState.UNDECIDED
    has_calls = request.get("tool_choice") != "none"
    response_format = request.get("response_format")
    is_free = not isinstance(response_format, dict) or response_format.get("type") == "text"
    turn_ends = tuple(end for end in TURN_ENDS if end in source)

    def answer(text: str) -> dict[str, Any]:
        parser = OutputParser(template.format, starts_in, tools=Tools(tools), has_calls=has_calls, is_free=is_free)
        builder = MessageBuilder(lambda number: f"call_{number:024}")
        for events in _events(parser, _without_end(text, turn_ends), args.chunk):
            builder.add(events)
        return {**builder.message(), "finish_reason": builder.finish_reason}

    return answer


def _events(parser: OutputParser, text: str, chunk: int) -> Iterator[list[Event]]:
    step = chunk or max(1, len(text))
    for start in range(0, len(text), step):
        yield parser.feed(text[start : start + step])
    yield parser.finish()


def _without_end(text: str, turn_ends: tuple[str, ...]) -> str:
    stripped = text.rstrip()
    end = next((end for end in turn_ends if stripped.endswith(end)), "")
    return stripped.removesuffix(end) if end else text


def _starts_in(template: ChatTemplate, request: dict[str, Any], tools: list[dict[str, Any]]) -> ReasoningState:
    messages, variables = request.get("messages"), request.get("chat_template_kwargs") or {}
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _UsageError("the request's 'messages' must be a list of messages")
    if not isinstance(variables, dict):
        raise _UsageError("the request's 'chat_template_kwargs' must be an object")
    effort = request.get("reasoning_effort")
    has_three_levels = template.format.name == "harmony"
    variables = thinking_variables(effort, variables, has_three_levels=has_three_levels)
    return template.prompt(messages, tools=tools, **variables).starts_in


def _tools(path: Path | None, request: dict[str, Any]) -> list[dict[str, Any]]:
    tools = _json(path) if path else request.get("tools") or []
    name = f"'{path}'" if path else "the request's 'tools'"
    if not isinstance(tools, list) or not all(map(_is_tool, tools)):
        raise _UsageError(f"{name} must be a list of tools, each with a function that has a name")
    return tools


def _is_tool(tool: object) -> bool:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        return False
    return isinstance(function.get("parameters") or {}, dict)


def _object(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise _UsageError(f"'{path}' must hold a JSON object")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise _UsageError(f"'{path}' is no JSON: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _UsageError(f"'{path}' cannot be read: {error}") from None
