"""The messages of a chat, checked for their form. They stay as they came: templates read keys that OpenAI has not."""

from typing import Any

from handler.api.fields import show
from handler.errors import InvalidRequestError

ROLES = ("system", "developer", "user", "assistant", "tool")

Message = dict[str, Any]


def check_messages(messages: list[Message]) -> list[Message]:
    """The same messages. Raises InvalidRequestError for the first that is not one."""
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    return messages


def continues(messages: list[Message]) -> bool:
    """Whether the last message is an assistant's that more text can be appended to."""
    last = messages[-1]
    return last.get("role") == "assistant" and not last.get("tool_calls")


def _check_message(message: Message, param: str) -> None:
    role = message.get("role")
    if role not in ROLES:
        got = f"got {show(role)}" if "role" in message else "it is missing"
        raise InvalidRequestError(f"'{param}.role' must be one of {', '.join(ROLES)} ({got})", param=f"{param}.role")
    if "content" not in message and role != "assistant":
        raise InvalidRequestError(f"'{param}.content' is missing", param=f"{param}.content")
    _check_content(message.get("content"), f"{param}.content")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidRequestError(f"'{param}.tool_calls' must be a list of objects", param=f"{param}.tool_calls")


def _check_content(content: object, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequestError(f"'{param}' must be a text or a list of text parts", param=param)
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            message = f"'{param}' may hold parts of type text only: this model reads no others (got {show(kind)})"
            raise InvalidRequestError(message, param=param)
        if not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"'{param}' has a text part without text", param=param)
