"""The chat template: messages in, prompt text out, as `apply_chat_template` of transformers does it.

Knows nothing about tokens, model files or the rest of a request; `sandbox` runs the template.

    ModelError       the source does not compile: `ChatTemplate(...)` raises it
    TemplateError    the template cannot render a conversation, or refuses to: `render` raises it
"""

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from handler.chat.sandbox import Program, RefusalError
from handler.errors import InvalidRequestError, ModelError, TemplateError

MAX_ERROR_CHARS = 500  # of a template's own words in our messages


class ChatTemplate:
    """A compiled template. Renders any number of conversations, from any thread.

    A source that does not compile raises ModelError; `model_template` puts that off until somebody wants to chat.
    """

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        try:
            self._program = Program(source)
        except Exception as error:  # two compilers, Jinja's and Python's, fail in many ways
            raise ModelError(f"the chat template does not compile: {_explain(error)}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._knows_developer = "developer" in source

    def render(
        self,
        messages: list[dict[str, Any]],
        /,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The prompt of a conversation; `kwargs` are further variables for the template.

        Raises TemplateError, and InvalidRequestError for content that is not text.
        """
        messages = normalise(messages, keep_developer=self._knows_developer)
        if any("tool_calls" in message for message in messages):
            messages = [self._call_style.apply(message) for message in messages]
        variables = {"messages": messages, "tools": tools or None, "add_generation_prompt": add_generation_prompt}
        try:
            return self._run({**kwargs, **variables})
        except RefusalError as error:
            raise TemplateError(f"The chat template refuses this conversation: {_explain(error)}") from error
        except Exception as error:  # whatever a template raises is its failure, not the worker's
            raise TemplateError(f"The chat template failed: {_explain(error)}") from error

    @cached_property
    def _call_style(self) -> "_CallStyle":
        """How this template wants tool calls: the first style in which a call's name and arguments come through."""
        return next(filter(self._shows_calls, _CALL_STYLES), _CALL_STYLES[0])

    def _shows_calls(self, style: "_CallStyle") -> bool:
        function = {"name": "probe_name", "arguments": '{"probe_key": 1}'}
        call = {"id": "call00000", "type": "function", "function": function}
        answer = style.apply({"role": "assistant", "content": "", "tool_calls": [call]})
        messages = [{"role": "user", "content": ""}, answer]
        try:
            prompt = self._run({"messages": messages, "tools": None, "add_generation_prompt": True})
        except Exception:
            return False
        return "probe_name" in prompt and "probe_key" in prompt

    def _run(self, variables: dict[str, Any]) -> str:
        return self._program.run({"documents": None, **variables, **self._tokens})


def model_template(source: str | None, *, bos_token: str, eos_token: str) -> Callable[[], ChatTemplate]:
    """Gives the template of a model's file. Never fails itself: what it returns raises TemplateError when asked."""
    if not source:
        return _no_template("This model has no chat template.")
    try:
        template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    except ModelError as error:
        return _no_template(f"This model's own template cannot be used: {error}.")
    return lambda: template


def _no_template(reason: str) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise TemplateError(f"{reason} Use /v1/completions, or set CHAT_TEMPLATE.")

    return refuse


def normalise(messages: list[dict[str, Any]], *, keep_developer: bool = False) -> list[dict[str, Any]]:
    """Messages as templates expect them: content is one string, and `developer` is `system` for who does not know it.

    The originals stay as they are. Content that is no text raises InvalidRequestError.
    """
    return [_normalise(message, i, keep_developer) for i, message in enumerate(messages)]


def _normalise(message: dict[str, Any], i: int, keep_developer: bool) -> dict[str, Any]:
    given = {key: value for key, value in message.items() if value is not None}
    if not given.get("tool_calls"):
        given.pop("tool_calls", None)  # templates ask whether the key is there
    if given.get("role") == "developer" and not keep_developer:
        given["role"] = "system"
    return {**given, "content": _text_content(given.get("content"), f"messages[{i}].content")}


def _text_content(content: object, param: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"'{param}' must be a text or a list of text parts", param=param)
    return "\n".join(_part_text(part, param) for part in content)


def _part_text(part: object, param: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"'{param}' may hold parts of type text only: this model reads no others", param=param
        )
    return text


class _CallStyle(NamedTuple):
    """What a template expects of an assistant's message that calls tools."""

    no_content: str | None
    parsed_arguments: bool

    def apply(self, message: dict[str, Any]) -> dict[str, Any]:
        calls = message.get("tool_calls")
        if not isinstance(calls, list):
            return message
        content = message["content"] or self.no_content
        return {**message, "content": content, "tool_calls": [self._apply_to_call(call) for call in calls]}

    def _apply_to_call(self, call: Any) -> Any:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not self.parsed_arguments:
            return call
        return {**call, "function": {**function, "arguments": _parse_arguments(function.get("arguments"))}}


# Most templates call `tojson` on the arguments. DeepSeek's add them as text; its first ones need a content of none.
_CALL_STYLES = (_CallStyle("", True), _CallStyle("", False), _CallStyle(None, True), _CallStyle(None, False))


def _parse_arguments(arguments: object) -> object:
    """The object that a JSON text holds; anything else stays as it is."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _explain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return str(error)[:MAX_ERROR_CHARS] or type(error).__name__
