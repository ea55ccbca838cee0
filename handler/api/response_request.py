"""A request of OpenAI's Responses, as the chat request that asks for the same. Pure.

Nothing is stored, so all of the conversation is in the request. Every field becomes one of chat's, is harmless, or is
refused by name. Raises InvalidRequestError.
"""

from collections.abc import Iterator
from typing import Any

from handler.api import parameters, translated_parameters
from handler.api.fields import body_of, object_at, show, text_at, unsupported, wrong

Json = dict[str, Any]

# Fields that are chat's own, by the same name.
SAME = parameters.OBEYED["responses"] - translated_parameters.OBEYED["responses"]
LOGPROBS = "message.output_text.logprobs"  # values of `include`
ENCRYPTED = "reasoning.encrypted_content"
OPEN = "plain:"  # begins what is given as encrypted reasoning here: clients without a store send that back, and no more
ROLES = ("user", "system", "developer", "assistant")


def to_chat(body: object) -> Json:
    """The body of the chat request."""
    body = {name: value for name, value in body_of(body).items() if value is not None}
    parameters.check_parameters("responses", body)
    chat = {name: value for name, value in body.items() if name in SAME}
    chat["messages"] = [*_instructions(body.get("instructions", "")), *_conversation(body)]
    if "max_output_tokens" in body:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    reasoning = object_at(body.get("reasoning", {}), "reasoning")
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    return chat | _tools(body) | _text_form(body.get("text", {})) | _logprobs(body)


def includes(body: Json, what: str) -> bool:
    """Whether `include` names it."""
    include = body.get("include") or []
    return isinstance(include, list) and what in include


def _logprobs(body: Json) -> Json:
    include = body.get("include", [])
    if not isinstance(include, list) or not all(isinstance(what, str) for what in include):
        raise wrong("include", "must be a list of texts")
    num = body.get("top_logprobs", 0)
    return {"logprobs": True, "top_logprobs": num} if num or includes(body, LOGPROBS) else {}


def _instructions(text: object) -> Iterator[Json]:
    if not isinstance(text, str):
        raise wrong("instructions", f"must be a text (got {show(text)})")
    if text:
        yield {"role": "system", "content": text}


# The conversation


def _conversation(body: Json) -> list[Json]:
    """The messages of `input`. Reasoning, text and calls that follow each other are one turn of the assistant."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not (given or body.get("instructions")):
        raise wrong("input", "must be a text or a list of items, and not empty")
    messages: list[Json] = []
    for i, item in enumerate(given):
        _add(messages, object_at(item, f"input[{i}]"), f"input[{i}]")
    return messages


def _add(messages: list[Json], item: Json, param: str) -> None:
    match item.get("type") or "message":
        case "message":
            _add_message(messages, item, param)
        case "function_call":
            function = {"name": text_at(item, "name", param), "arguments": text_at(item, "arguments", param)}
            call = {"id": text_at(item, "call_id", param), "type": "function", "function": function}
            turn = _turn(messages)
            turn["tool_calls"] = [*turn.get("tool_calls", []), call]
        case "function_call_output":
            content = _content(item.get("output"), f"{param}.output")
            messages.append({"role": "tool", "tool_call_id": text_at(item, "call_id", param), "content": content})
        case "reasoning":
            if thought := _thought(item, param):
                turn = _turn(messages)
                turn["reasoning_content"] = "\n".join(filter(None, (turn.get("reasoning_content"), thought)))
        case "item_reference":
            raise unsupported(param, "nothing is stored here: send the item itself.")
        case kind:
            raise unsupported(param, f"this model reads no item of type {show(kind)}")


def _add_message(messages: list[Json], item: Json, param: str) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise wrong(f"{param}.role", f"must be one of {', '.join(ROLES)} (got {show(role)})")
    content = _content(item.get("content"), f"{param}.content")
    if role != "assistant":
        messages.append({"role": role, "content": content})
        return
    if not isinstance(content, str):
        raise wrong(f"{param}.content", "of the assistant may hold text alone")
    turn = _turn(messages)
    turn["content"] = (turn["content"] or "") + content


def _turn(messages: list[Json]) -> Json:
    """The assistant's last message, which goes on; or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _thought(item: Json, param: str) -> str:
    """What this model thought. The encrypted thoughts of others cannot be read; their summary may be there."""
    if texts := list(_texts(item, "content", param)):
        return "\n".join(texts)
    hidden = item.get("encrypted_content")
    if isinstance(hidden, str) and hidden.startswith(OPEN):
        return hidden.removeprefix(OPEN)
    return "\n".join(_texts(item, "summary", param))


def _texts(item: Json, name: str, param: str) -> Iterator[str]:
    parts = item.get(name) or []
    if not isinstance(parts, list):
        raise wrong(f"{param}.{name}", "must be a list")
    for i, part in enumerate(parts):
        at = f"{param}.{name}[{i}]"
        yield text_at(object_at(part, at), "text", at)


def _content(content: object, param: str) -> object:
    """One text where all parts are text; chat's parts otherwise."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(param, "must be a text or a list of parts")
    parts = [_part(object_at(part, f"{param}[{i}]"), f"{param}[{i}]") for i, part in enumerate(content)]
    return "".join(part["text"] for part in parts) if all(part["type"] == "text" for part in parts) else parts


def _part(part: Json, param: str) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": text_at(part, "text", param)}
        case "refusal":
            return {"type": "text", "text": text_at(part, "refusal", param)}
        case "input_image" if isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_image" | "input_file" if part.get("file_id") is not None:
            raise unsupported(param, "no files are stored here: send what is in it")
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case kind:
            raise unsupported(param, f"this model reads no part of type {show(kind)} here")


# Tools, and the form of the answer


def _tools(body: Json) -> Json:
    """Functions. Tools that OpenAI's servers run are left out: clients send them with every request."""
    tools = body.get("tools", [])
    if not isinstance(tools, list):
        raise wrong("tools", f"must be a list (got {show(tools)})")
    given = [object_at(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    chat: Json = {"tools": [_tool(tool) for tool in given if tool.get("type") == "function"]}
    if "tool_choice" in body:
        chat["tool_choice"] = _tool_choice(body["tool_choice"])
    return chat if tools or "tool_choice" in body else {}


def _tool(tool: Json) -> Json:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if name in tool}}


def _tool_choice(choice: object) -> object:
    """Chats know the same kinds. Of the tools that are allowed those that were left out are, too."""
    is_allowing = isinstance(choice, dict) and choice.get("type") == "allowed_tools"
    if not (isinstance(choice, dict) and is_allowing and isinstance(tools := choice.get("tools"), list)):
        return choice
    known = [tool for tool in tools if not isinstance(tool, dict) or tool.get("type") == "function"]
    return {**choice, "tools": known}


def _text_form(text: object) -> Json:
    form = object_at(object_at(text, "text").get("format") or {}, "text.format")
    match form.get("type", "text"):
        case "text":
            return {}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {name: value for name, value in form.items() if name != "type"}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case kind:
            raise wrong("text.format.type", f"must be text, json_object or json_schema (got {show(kind)})")
