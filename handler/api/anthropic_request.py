"""A request in the form of Anthropic's Messages, as the chat request that asks for the same. Pure.

Every field becomes one of chat's, is harmless, or is refused by name. Values that both forms share are checked by
chat's own model, which then names chat's field. Raises InvalidRequestError.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from handler.api import parameters, translated_parameters
from handler.api.anthropic_tools import CHANGES, tools_of
from handler.api.fields import body_of, object_at, show, text_at, unsupported, wrong
from handler.errors import InvalidRequestError

Json = dict[str, Any]

# Fields that are chat's own, by the same name.
SAME = parameters.OBEYED["messages"] - translated_parameters.OBEYED["messages"]
# The first line of Claude Code's system prompt, for Anthropic's accounting. It differs in each request, so that nothing
# behind it would be found in the prefix cache.
BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
OPEN = "plain:"  # begins a signature that holds the thoughts themselves, for clients that do not want to see them


def to_chat(body: object) -> Json:
    """The body of the chat request."""
    body = {name: value for name, value in body_of(body).items() if value is not None}
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
    return chat | tools_of(body) | thinking | _output(body)


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
        if role == "system" and (content is None or _is_cleared(message, messages[i + 1 :])):
            continue
        if isinstance(content, str):
            yield {"role": role, "content": content}
        elif role == "assistant":
            yield _assistant(_blocks(content, f"{param}.content"), f"{param}.content")
        else:
            yield from _asked(role, _blocks(content, f"{param}.content"), f"{param}.content")


def _is_cleared(message: Json, later: list[Any]) -> bool:
    """Whether a message that is for one turn alone has been followed by the next."""
    is_short = message.get("clear_at") == "next_user_message"
    return is_short and any(isinstance(other, dict) and other.get("role") == "user" for other in later)


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
                thoughts.append(_thought(block, at))
            case "redacted_thinking":
                pass  # encrypted by and for Anthropic: there is no text in it
            case "tool_use":
                arguments = json.dumps(object_at(block.get("input", {}), f"{at}.input"), ensure_ascii=False)
                function = {"name": text_at(block, "name", at), "arguments": arguments}
                calls.append({"id": text_at(block, "id", at), "type": "function", "function": function})
            case kind:
                raise _unknown_block(kind, at)
    message: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if thought := "".join(thoughts):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _thought(block: Json, param: str) -> str:
    """As the block has it, or as it was hidden in the signature."""
    signature = block.get("signature")
    is_hidden = isinstance(signature, str) and signature.startswith(OPEN)
    return text_at(block, "thinking", param) or (str(signature).removeprefix(OPEN) if is_hidden else "")


def _asked(role: str, blocks: list[Json], param: str) -> Iterator[Json]:
    """Results of tools come first: templates want them right behind the calls."""
    parts: list[Json] = []
    for i, block in enumerate(blocks):
        at = f"{param}[{i}]"
        if block.get("type") == "tool_result":
            yield _result(block, at)
        elif not (role == "system" and block.get("type") in CHANGES):
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
        case "tool_reference", _:
            return {"type": "text", "text": text_at(block, "tool_name", param)}
        case "document", "text":
            return {"type": "text", "text": text_at(block["source"], "data", f"{param}.source")}
        case "image", "url":
            return {"type": "image_url", "image_url": {"url": text_at(block["source"], "url", f"{param}.source")}}
        case "image", "base64":
            names = ("media_type", "data")
            media_type, data = (text_at(block["source"], name, f"{param}.source") for name in names)
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case "image" | "document", "file":
            raise unsupported(param, "no files are stored here: send what is in it")
    raise _unknown_block(block.get("type"), param)


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
    return chat


def _output(body: Json) -> Json:
    config = object_at(body.get("output_config", {}), "output_config") | _later_config(body["messages"])
    chat: Json = {"reasoning_effort": config["effort"]} if config.get("effort") is not None else {}
    wanted = config.get("format") or body.get("output_format")
    if wanted is None:
        return chat
    form = object_at(wanted, "output_config.format")
    if form.get("type") != "json_schema":
        raise wrong("output_config.format.type", f"must be json_schema (got {show(form.get('type'))})")
    schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
    return chat | {"response_format": {"type": "json_schema", "json_schema": schema}}


def _later_config(messages: list[Json]) -> Json:
    """What system messages say of the effort from then on: the last one counts."""
    told: Json = {}
    for i, message in enumerate(messages):
        if message.get("role") == "system" and message.get("output_config") is not None:
            config = object_at(message["output_config"], f"messages[{i}].output_config")
            told |= {"effort": config["effort"]} if config.get("effort") is not None else {}
    return told


def omits_thinking(body: Json) -> bool:
    """Whether the client wants thoughts in a form that it does not see."""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def _blocks(content: object, param: str) -> list[Json]:
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise wrong(param, "must be a text or a list of blocks")
    return content


def _unknown_block(kind: object, param: str) -> InvalidRequestError:
    return unsupported(param, f"this model reads no block of type {show(kind)} here")
