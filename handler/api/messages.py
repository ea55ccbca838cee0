"""The messages of a chat, checked for their form. They stay as they came: templates read keys that OpenAI has not."""

from typing import Any

from handler.api.fields import show
from handler.errors import InvalidRequestError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHOWING_ROLES = ("user", "tool", "function")  # whose messages may hold images

Message = dict[str, Any]


def check_messages(messages: list[Message]) -> list[Message]:
    """The same messages. Raises InvalidRequestError for the first that is not one."""
    for i, message in enumerate(messages):
        _check_message(message, f"messages[{i}]")
    return messages


def continues(messages: list[Message]) -> bool:
    """Whether the last message is an assistant's that more text can be appended to."""
    last = messages[-1]
    return last.get("role") == "assistant" and not (last.get("tool_calls") or last.get("function_call"))


def modernise(messages: list[Message]) -> list[Message]:
    """OpenAI's older `function_call` and messages of role `function` as calls of tools and their results."""
    return [_modernise(message, i) for i, message in enumerate(messages)]


def _modernise(message: Message, i: int) -> Message:
    if message.get("role") == "function":
        return {**message, "role": "tool"}
    call = message.get("function_call")
    if call is None:
        return message
    rest = {key: value for key, value in message.items() if key != "function_call"}
    return {**rest, "tool_calls": [{"id": f"call_{i}", "type": "function", "function": call}]}


def _check_message(message: Message, param: str) -> None:
    role = message.get("role")
    if role not in ROLES:
        got = f"got {show(role)}" if "role" in message else "it is missing"
        raise InvalidRequestError(f"'{param}.role' must be one of {', '.join(ROLES)} ({got})", param=f"{param}.role")
    if "content" not in message and role != "assistant":
        raise InvalidRequestError(f"'{param}.content' is missing", param=f"{param}.content")
    _check_content(message.get("content"), f"{param}.content", may_show=role in SHOWING_ROLES)
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise InvalidRequestError(f"'{param}.tool_calls' must be a list of objects", param=f"{param}.tool_calls")
    for j, call in enumerate(calls or ()):
        _check_call(call.get("function"), f"{param}.tool_calls[{j}].function")
    if message.get("function_call") is not None:
        _check_call(message["function_call"], f"{param}.function_call")


def _check_call(function: object, param: str) -> None:
    """What is missing is missing in the prompt too."""
    if function is None:
        return
    if not isinstance(function, dict) or not isinstance(function.get("name", ""), str):
        raise InvalidRequestError(f"'{param}' must be an object whose name is a text", param=param)
    if not isinstance(function.get("arguments"), str | dict | None):
        message = f"'{param}.arguments' must be a text of JSON or an object"
        raise InvalidRequestError(message, param=f"{param}.arguments")


def _check_content(content: object, param: str, *, may_show: bool) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequestError(f"'{param}' must be a text or a list of text parts", param=param)
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url" and may_show:
            _check_image(part.get("image_url"), param)
            continue
        if kind == "input_audio" and may_show:
            _check_sound(part.get("input_audio"), param)
            continue
        if kind != "text":
            kinds = "text, image_url and input_audio" if may_show else "text only"
            message = f"'{param}' may hold parts of type {kinds}: no others are read (got {show(kind)})"
            raise InvalidRequestError(message, param=param)
        if not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"'{param}' has a text part without text", param=param)


def _check_image(image: object, param: str) -> None:
    """OpenAI's object; some clients send its URL alone. `detail` is a wish that local models cannot follow."""
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise InvalidRequestError(f"'{param}' has an image_url part with no URL", param=param)


def _check_sound(sound: object, param: str) -> None:
    """Its `format` is not believed: the bytes say themselves what they are."""
    if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
        raise InvalidRequestError(f"'{param}' has an input_audio part with no data", param=param)
