"""A request's messages in one form, whatever form they came in."""

import json
from typing import Any

from handler.errors import InvalidRequestError

Message = dict[str, Any]
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # by which clients give reasoning back
NEEDLESS_ESCAPES = ("\\u", "\\/")
THINK_OPENS, THINK_CLOSES = "<think>", "</think>"


def normalise(messages: list[Message]) -> list[Message]:
    """Messages as everything behind here expects them. The originals stay as they are.

    Content is one string, null fields are gone, and an assistant's reasoning is in `reasoning_content`, wherever it
    stood before. Content that is no text raises InvalidRequestError.
    """
    return [_normalise(message, i) for i, message in enumerate(messages)]


def _normalise(message: Message, i: int) -> Message:
    given = {key: value for key, value in message.items() if value is not None}
    if not given.get("tool_calls"):
        given.pop("tool_calls", None)  # templates ask whether the key is there
    elif isinstance(given["tool_calls"], list):
        given["tool_calls"] = [_plainly_written(call) for call in given["tool_calls"]]
    given["content"] = _text_content(given.get("content"), f"messages[{i}].content")
    return _with_reasoning(given) if given.get("role") == "assistant" else given


def _plainly_written(call: Any) -> Any:
    """The call with arguments whose JSON escapes nothing that it need not: what they spell is looked for as text."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(arguments, str) or not any(escape in arguments for escape in NEEDLESS_ESCAPES):
        return call
    try:
        arguments = json.dumps(json.loads(arguments), ensure_ascii=False)
        arguments.encode()
    except (ValueError, RecursionError):  # no JSON, or half a character: it stays as it came
        return call
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _text_content(content: object, param: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"'{param}' must be a text or a list of text parts", param=param)
    return _joined(content, param)


def _joined(parts: list[object], param: str) -> str:
    """Texts in lines of their own; the mark of an image stands among them as it is."""
    text, was_text = "", False
    for part in parts:
        is_text = not (isinstance(part, dict) and part.get("type") == "media_marker")
        text += ("\n" if is_text and was_text else "") + _part_text(part, param)
        was_text = is_text
    return text


def _part_text(part: object, param: str) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else None
    kind = "text" if kind == "media_marker" else kind
    text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"'{param}' may hold parts of type text only: this model reads no others", param=param
        )
    return text


def _with_reasoning(message: Message) -> Message:
    """Reasoning from any of its fields, or from the head of the content, where older clients leave it."""
    fields = [message.pop(field, None) for field in REASONING_FIELDS]
    reasoning = next((field for field in fields if isinstance(field, str) and field), "")
    content = message["content"]
    head, closes, rest = content.partition(THINK_CLOSES)
    if not reasoning and closes and head.lstrip().startswith(THINK_OPENS):
        reasoning, content = head.lstrip().removeprefix(THINK_OPENS).strip(), rest.lstrip()
    return {**message, "content": content, **({"reasoning_content": reasoning} if reasoning else {})}
