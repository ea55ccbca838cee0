"""A request in the form of Anthropic's Messages, as the chat request that asks for the same. Pure.

Every field becomes one of chat's, is harmless, or is refused by name. Values that both forms share are checked by
chat's own model, which then names chat's field. Raises InvalidRequestError.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from handler.api import parameters, translated_parameters
from handler.api.fields import object_at, show, text_at, unsupported, wrong
from handler.errors import InvalidRequestError

Json = dict[str, Any]

# Fields that are chat's own, by the same name.
SAME = parameters.OBEYED["messages"] - translated_parameters.OBEYED["messages"]
# The first line of Claude Code's system prompt, for Anthropic's accounting. It differs in each request, so that nothing
# behind it would be found in the prefix cache.
BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_chat(body: object) -> Json:
    """The body of the chat request."""
    if not isinstance(body, dict):
        raise InvalidRequestError("The request body must be a JSON object")
    body = {name: value for name, value in body.items() if value is not None}
    parameters.check_parameters("messages", body)
    _check_context_management(body.get("context_management", {}))
    chat = {name: value for name, value in body.items() if name in SAME}
    chat["messages"] = [*_system(body.get("system", "")), *_messages(body.get("messages"))]
    if "stop_sequences" in body:
        chat["stop"] = body["stop_sequences"]
    thinking = _thinking(body.get("thinking", {}))
    if "chat_template_kwargs" in thinking and "chat_template_kwargs" in chat:
        given = object_at(chat["chat_template_kwargs"], "chat_template_kwargs")
        thinking["chat_template_kwargs"] = thinking["chat_template_kwargs"] | given
    return chat | _tools(body) | thinking | _output(body)


def _check_context_management(value: object) -> None:
    """Templates leave thoughts of earlier turns out by themselves; other edits would change the conversation."""
    edits = object_at(value, "context_management").get("edits") or []
    for edit in edits if isinstance(edits, list) else [edits]:
        kind = edit.get("type") if isinstance(edit, dict) else edit
        if not str(kind).startswith("clear_thinking_"):
            raise unsupported("context_management", f"this worker makes no such edit (got {show(kind)})")


def _system(system: object) -> Iterator[Json]:
    texts = [system] if isinstance(system, str) else list(_texts(system, "system"))
    if text := "\n\n".join(filter(None, (BILLING.sub("", text) for text in texts))):
        yield {"role": "system", "content": text}


def _messages(messages: object) -> Iterator[Json]:
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "must be a list of messages, and not empty")
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        role = object_at(message, param).get("role")
        if role not in ("user", "assistant", "system"):
            raise wrong(f"{param}.role", f"must be user, assistant or system (got {show(role)})")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": role, "content": content}
        elif role == "assistant":
            yield _assistant(_blocks(content, f"{param}.content"), f"{param}.content")
        else:
            yield from _asked(role, _blocks(content, f"{param}.content"), f"{param}.content")


def _assistant(blocks: list[Json], param: str) -> Json:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for i, block in enumerate(blocks):
        at = f"{param}[{i}]"
        match block.get("type"):
            case "text":
                texts.append(text_at(block, "text", at))
            case "thinking":
                thoughts.append(text_at(block, "thinking", at))
            case "redacted_thinking":
                pass  # encrypted by and for Anthropic: there is no text in it
            case "tool_use":
                arguments = json.dumps(object_at(block.get("input", {}), f"{at}.input"), ensure_ascii=False)
                function = {"name": text_at(block, "name", at), "arguments": arguments}
                calls.append({"id": text_at(block, "id", at), "type": "function", "function": function})
            case kind:
                raise _unknown_block(kind, at)
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _asked(role: str, blocks: list[Json], param: str) -> Iterator[Json]:
    """Results of tools come first: templates want them right behind the calls."""
    parts: list[Json] = []
    for i, block in enumerate(blocks):
        at = f"{param}[{i}]"
        if block.get("type") == "tool_result":
            yield _result(block, at)
        else:
            parts.append(_part(block, at))
    if parts:
        yield {"role": role, "content": parts[0]["text"] if _is_one_text(parts) else parts}


def _result(block: Json, param: str) -> Json:
    given = block.get("content") or ""
    blocks = [{"type": "text", "text": given}] if isinstance(given, str) else _blocks(given, f"{param}.content")
    parts = [_part(each, f"{param}.content[{i}]") for i, each in enumerate(blocks)]
    content: object = parts
    if all(part["type"] == "text" for part in parts):
        content = "\n".join(part["text"] for part in parts)
        content = f"Error: {content}" if block.get("is_error") else content
    elif block.get("is_error"):
        content = [{"type": "text", "text": "Error: "}, *parts]
    return {"role": "tool", "tool_call_id": text_at(block, "tool_use_id", param), "content": content}


def _is_one_text(parts: list[Json]) -> bool:
    return len(parts) == 1 and parts[0]["type"] == "text"


def _texts(content: object, param: str) -> Iterator[str]:
    for i, block in enumerate(_blocks(content, param)):
        if block.get("type") != "text":
            raise _unknown_block(block.get("type"), f"{param}[{i}]")
        yield text_at(block, "text", f"{param}[{i}]")


def _part(block: Json, param: str) -> Json:
    """A block as a part of a chat's message."""
    source = block.get("source")
    kind = (block.get("type"), source.get("type") if isinstance(source, dict) else None)
    match kind:
        case "text", _:
            return {"type": "text", "text": text_at(block, "text", param)}
        case "document", "text":
            return {"type": "text", "text": text_at(block["source"], "data", f"{param}.source")}
        case "image", "url":
            return {"type": "image_url", "image_url": {"url": text_at(block["source"], "url", f"{param}.source")}}
        case "image", "base64":
            names = ("media_type", "data")
            media_type, data = (text_at(block["source"], name, f"{param}.source") for name in names)
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
    raise _unknown_block(block.get("type"), param)


def _tools(body: Json) -> Json:
    """The client's own tools. Those that Anthropic's servers run, or that Anthropic's models were trained on without a
    schema, are left out: clients send them with every request."""
    tools = body.get("tools", [])
    if not isinstance(tools, list):
        raise wrong("tools", f"must be a list (got {show(tools)})")
    given = [(object_at(tool, f"tools[{i}]"), f"tools[{i}]") for i, tool in enumerate(tools)]
    chat: Json = {"tools": [_tool(tool, param) for tool, param in given if tool.get("type") in (None, "custom")]}
    if "tool_choice" not in body:
        return chat if tools else {}
    choice = object_at(body["tool_choice"], "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in CHOICES:
        chat["tool_choice"] = CHOICES[kind]
    else:
        raise wrong("tool_choice.type", f"must be auto, any, tool or none (got {show(kind)})")
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Json, param: str) -> Json:
    if "input_schema" not in tool:
        raise wrong(f"{param}.input_schema", "is missing")
    names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
    return {"type": "function", "function": {new: tool[old] for old, new in names.items() if old in tool}}


def _thinking(value: object) -> Json:
    thinking = object_at(value, "thinking")
    match thinking.get("type", "adaptive"):
        case "adaptive" | "between_tools":
            chat: Json = {}
        case "enabled":
            chat = {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}
            if "budget_tokens" in thinking:
                chat["thinking_budget_tokens"] = thinking["budget_tokens"]
        case "disabled":
            return {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
        case kind:
            raise wrong("thinking.type", f"must be enabled, adaptive, between_tools or disabled (got {show(kind)})")
    return chat | ({"include_reasoning": False} if thinking.get("display") == "omitted" else {})


def _output(body: Json) -> Json:
    config = object_at(body.get("output_config", {}), "output_config")
    chat: Json = {"reasoning_effort": config["effort"]} if config.get("effort") is not None else {}
    wanted = config.get("format") or body.get("output_format")
    if wanted is None:
        return chat
    form = object_at(wanted, "output_config.format")
    if form.get("type") != "json_schema":
        raise wrong("output_config.format.type", f"must be json_schema (got {show(form.get('type'))})")
    schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
    return chat | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _blocks(content: object, param: str) -> list[Json]:
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise wrong(param, "must be a text or a list of blocks")
    return content


def _unknown_block(kind: object, param: str) -> InvalidRequestError:
    return unsupported(param, f"this model reads no block of type {show(kind)} here")
