"""Repairs of a conversation, so that a template shows all of it to its model.

Templates refuse or drop what their authors did not think of: system messages in mid-conversation, two calls in one
message, calls at all. What a template can do are its `Traits`; `traits.py` finds them out.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handler.chat.formats.format import Format, IdStyle
from handler.chat.formats.layouts import WrittenCall
from handler.chat.messages import Message

Tool = dict[str, Any]
Arguments = Literal["object", "text", "written"]  # parsed, as they came, or the whole call written into the content
System = Literal["anywhere", "first", "nowhere"]
ReasoningField = Literal["reasoning_content", "thinking", "reasoning", "part"]

NINE = re.compile(r"[A-Za-z0-9]{9}")


@dataclass(frozen=True)
class Traits:
    """What a template can do, and in which form it wants what it can do."""

    wants_parts: bool = False  # it shows content only as a list of parts, as those of models that see often do
    system: System = "anywhere"  # where it shows system messages
    keeps_developer: bool = False  # it tells developer and system apart
    shows_tools: bool = True
    needs_whole_schemas: bool = False  # it fails on parameters without a description
    arguments: Arguments = "object"
    no_content: str | None = ""  # what a message with calls and without text holds
    results: Literal["tool", "user"] = "tool"  # the role that may bring them
    one_call_each: bool = False  # a second call in a message is refused or lost
    text_apart: bool = False  # text beside a call is shown only in a message of its own
    user_follows_tool: bool = True  # the user may speak before the assistant has answered to a result
    reasoning: ReasoningField = "reasoning_content"
    reasoning_is_text: bool = False  # text beside a call and reasoning exclude each other


def repair(messages: Sequence[Message], tools: Sequence[Tool] | None, traits: Traits, format: Format) -> list[Message]:
    """The messages as this template and these models want them. Takes normalised ones, changes none of them."""
    repaired = _repair(messages, tools, traits, format)
    return [_in_parts(message) for message in repaired] if traits.wants_parts else repaired


def _repair(messages: Sequence[Message], tools: Sequence[Tool] | None, traits: Traits, format: Format) -> list[Message]:
    repaired = list(_rename(messages, traits.keeps_developer))
    if tools and not traits.shows_tools:
        repaired = _add_tools(repaired, tools, format)
    if traits.system != "anywhere":
        repaired = _fold_system(repaired, traits.system)
    if not any("tool_calls" in message or message.get("role") == "tool" for message in repaired):
        return [_place_reasoning(message, traits) for message in repaired]
    repaired = _pair(repaired, format.ids)
    if traits.one_call_each:
        repaired = list(_split_calls(repaired))
    if traits.text_apart:
        repaired = list(_split_text(repaired))
    if not traits.user_follows_tool:
        repaired = _join_to_results(repaired)
    repaired = [_place_calls(_place_reasoning(message, traits), traits, format) for message in repaired]
    return _results_as_user(repaired) if traits.results == "user" else repaired


def whole_schemas(tools: Sequence[Tool]) -> list[Tool]:
    """Tools whose parameters all have a description, and whose objects say what else may be in them."""
    return [{**tool, "function": _whole(tool["function"])} if "function" in tool else _whole(tool) for tool in tools]


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if not isinstance(value, dict):
        return value
    whole = {key: _whole(item) for key, item in value.items()}
    if isinstance(whole.get("type"), str | list) or "parameters" in whole:
        whole.setdefault("description", "")
    if whole.get("type") == "object":
        whole.setdefault("additionalProperties", {})
    return whole


def _rename(messages: Sequence[Message], keeps_developer: bool) -> Iterator[Message]:
    for message in messages:
        is_developer = message.get("role") == "developer" and not keeps_developer
        yield {**message, "role": "system"} if is_developer else message


def _add_tools(messages: list[Message], tools: Sequence[Tool], format: Format) -> list[Message]:
    """Tools in the system text, for a template that does not show them: what they are, and how one is called."""
    example = format.layout.write([WrittenCall("NAME", {"ARGUMENT": "VALUE"})])
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = f"You may call these functions:\n{lines}\n\nTo call one, answer in this form:\n{example.strip()}"
    if messages and messages[0].get("role") in ("system", "developer"):
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _fold_system(messages: list[Message], system: System) -> list[Message]:
    """System messages where the template has no place for them become part of the next message of the user.

    Where none follows before the assistant speaks, they become part of the message before. At the top they would change
    what all later turns begin with, and a prefix cache would be of no use.
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for i, message in enumerate(messages):
        role = message.get("role")
        if role == "system" and (system == "nowhere" or i):
            waiting.append(message["content"])
        elif waiting and role == "user":
            folded.append({**message, "content": "\n\n".join((*waiting, message["content"]))})
            waiting = []
        elif waiting and role == "assistant":
            folded = [*_append(folded, waiting), message]
            waiting = []
        else:
            folded.append(message)
    return _append(folded, waiting) if waiting else folded


def _append(messages: list[Message], texts: list[str]) -> list[Message]:
    """The texts at the end of what the user or a tool has said last."""
    if messages and messages[-1].get("role") in ("user", "tool"):
        last = {**messages[-1], "content": "\n\n".join((messages[-1]["content"], *texts))}
        return [*messages[:-1], last]
    return [*messages, {"role": "user", "content": "\n\n".join(texts)}]


def _pair(messages: list[Message], ids: IdStyle) -> list[Message]:
    """Calls and their results under the ids that the family knows, results with names and in the order of the calls.

    Clients have opaque ids; Mistral wants nine letters or digits, Kimi K2 a count over the conversation.
    """
    paired: list[Message] = []
    open_calls: dict[str, tuple[str, str]] = {}  # by the client's id, new id and name of each call without a result
    num_calls = 0
    for message in messages:
        if message.get("role") == "assistant" and isinstance(message.get("tool_calls"), list):
            calls, open_calls = [], {}
            for call in message["tool_calls"]:
                name = _name(call)
                given = str(call.get("id", "")) if isinstance(call, dict) else ""
                new = _new_id(ids, given, name, num_calls)
                calls.append({**call, "id": new} if new and isinstance(call, dict) else call)
                open_calls[given or f"call {num_calls}"] = (new, name)
                num_calls += 1
            paired.append({**message, "tool_calls": calls})
        elif message.get("role") == "tool":
            given = message.get("tool_call_id", "")
            key = given if given in open_calls else next(iter(open_calls), None)
            new, name = open_calls.pop(key) if key is not None else (given, "")
            result = {**message, **({"tool_call_id": new} if new else {})}
            if name:
                result.setdefault("name", name)
            paired.append(result)
        else:
            paired.append(message)
    return _in_call_order(paired)


def _name(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _new_id(ids: IdStyle, given: str, name: str, number: int) -> str:
    """None only where the client gave none and the family asks for none."""
    if ids == "counted":
        return f"functions.{name}:{number}"
    if ids == "nine" and not NINE.fullmatch(given):
        return hashlib.sha256((given or str(number)).encode()).hexdigest()[:9]
    return given


def _in_call_order(messages: list[Message]) -> list[Message]:
    """Neighbouring results in the order of the calls they answer: some templates tell them apart by nothing else."""
    ordered: list[Message] = []
    places: dict[str, int] = {}
    i = 0
    while i < len(messages):
        if "tool_calls" in messages[i]:
            calls = messages[i]["tool_calls"]
            places = {call.get("id", ""): place for place, call in enumerate(calls) if isinstance(call, dict)}
        end = i
        while end < len(messages) and messages[end].get("role") == "tool":
            end += 1
        group = messages[i:end] or [messages[i]]
        ordered += sorted(group, key=lambda result: places.get(result.get("tool_call_id", ""), len(places)))
        i += len(group)
    return ordered


def _split_calls(messages: list[Message]) -> Iterator[Message]:
    """A message for each call, each followed by its result; text and reasoning stay with the first."""
    i = 0
    while i < len(messages):
        message = messages[i]
        calls = message.get("tool_calls", ())
        i += 1
        if len(calls) < 2:
            yield message
            continue
        results = {}
        while i < len(messages) and messages[i].get("role") == "tool":
            results[messages[i].get("tool_call_id", "")] = messages[i]
            i += 1
        for number, call in enumerate(calls):
            rest = {"role": message["role"], "content": ""}
            yield {**(rest if number else message), "tool_calls": [call]}
            if isinstance(call, dict) and call.get("id", "") in results:
                yield results.pop(call.get("id", ""))
        yield from results.values()


def _split_text(messages: list[Message]) -> Iterator[Message]:
    """Text beside calls in a message of its own, before them."""
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            yield {key: value for key, value in message.items() if key != "tool_calls"}
            yield {"role": message["role"], "content": "", "tool_calls": message["tool_calls"]}
        else:
            yield message


def _join_to_results(messages: list[Message]) -> list[Message]:
    """What the user says right behind a result becomes part of it."""
    joined: list[Message] = []
    for message in messages:
        if message.get("role") == "user" and joined and joined[-1].get("role") == "tool":
            joined = _append(joined, [message["content"]])
        else:
            joined.append(message)
    return joined


def _place_reasoning(message: Message, traits: Traits) -> Message:
    """An assistant's reasoning in the field that the template reads."""
    if "reasoning_content" not in message:
        return message
    placed = dict(message)
    reasoning = placed.pop("reasoning_content")
    if traits.reasoning == "part":
        text = [{"type": "text", "text": placed["content"]}] if placed["content"] else []
        return {**placed, "content": [{"type": "thinking", "thinking": reasoning}, *text]}
    if traits.reasoning_is_text and placed.get("tool_calls") and placed["content"]:
        reasoning, placed["content"] = f"{reasoning}\n{placed['content']}", ""
    return {**placed, traits.reasoning: reasoning}


def _place_calls(message: Message, traits: Traits, format: Format) -> Message:
    """An assistant's calls in the form that the template shows."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    if traits.arguments == "written":
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**rest, "content": (message["content"] + "\n\n" + _written(calls, format)).strip()}
    content = message["content"] or traits.no_content
    placed = [_parse_call(call) for call in calls] if traits.arguments == "object" else calls
    return {**message, "content": content, "tool_calls": placed}


def _written(calls: list[Any], format: Format) -> str:
    written = [
        WrittenCall(_name(call), arguments if isinstance(arguments, dict) else {}, str(call.get("id", "")))
        for call in map(_parse_call, calls)
        if isinstance(call, dict)
        for arguments in [call.get("function", {}).get("arguments")]
    ]
    return format.layout.write(written)


def _parse_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    return {**call, "function": {**function, "arguments": _parse_arguments(function.get("arguments"))}}


def _parse_arguments(arguments: object) -> object:
    """The object that a JSON text holds; anything else stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _results_as_user(messages: list[Message]) -> list[Message]:
    """Results as what the user says, for templates that know no other way; neighbours are one message."""
    spoken: list[Message] = []
    is_result = False  # the last message is what tools have said
    for message in messages:
        was_result, is_result = is_result, message.get("role") == "tool"
        text = f"<tool_response>\n{message['content']}\n</tool_response>" if is_result else message["content"]
        if was_result and message.get("role") in ("tool", "user"):
            spoken[-1] = {**spoken[-1], "content": f"{spoken[-1]['content']}\n{text}"}
        else:
            spoken.append({"role": "user", "content": text} if is_result else message)
    return spoken
