"""The chat template: messages in, prompt text out, as `apply_chat_template` of transformers does it.

Knows nothing about tokens, model files or the rest of a request. `sandbox` runs the template, `conversation` repairs
what it would refuse or drop, `traits` finds out what that is.

    ModelError       the source does not compile: `ChatTemplate(...)` raises it
    TemplateError    the template cannot render a conversation, or refuses to: `render` raises it
"""

import json
import re
import secrets
from collections.abc import Callable, Collection
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple, NoReturn

from handler.chat import formats
from handler.chat.conversation import Traits, repair, whole_schemas
from handler.chat.formats.format import Format
from handler.chat.messages import Message, normalise
from handler.chat.plain_text import MAX_LITERALS, Revealed, TokenTexts
from handler.chat.reasoning import ReasoningState, reasoning_state
from handler.chat.sandbox import Program, RefusalError
from handler.chat.traits import find_traits
from handler.errors import ModelError, TemplateError

MAX_ERROR_CHARS = 500  # of a template's own words in our messages


class Prompt(NamedTuple):
    """A rendered conversation, and where the model's answer to it begins.

    `literals` are spans of the text, half open, that spell a control token and came with the conversation: they are to
    be tokenized as text.
    """

    text: str
    starts_in: ReasoningState
    literals: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """A compiled template. Renders any number of conversations, from any thread.

    `tool_format` names the format of the model's calls, for models that do not write what their template shows; empty,
    the template's source decides. `control_tokens` are the texts of those in the model's vocabulary, of which a
    conversation may spell `max_literals`. `tool_use` gives the second template that a model has for conversations with
    tools, if it has one. A source that does not compile, and a format that is unknown, raise ModelError;
    `model_template` puts that off until the first chat.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str,
        eos_token: str,
        tool_format: str = "",
        control_tokens: Collection[str] = (),
        max_literals: int = MAX_LITERALS,
        tool_use: "Callable[[], ChatTemplate] | None" = None,
    ) -> None:
        try:
            self._program = Program(source)
        except Exception as error:  # two compilers, Jinja's and Python's, fail in many ways
            raise ModelError(f"the chat template does not compile: {_explain(error)}") from error
        if tool_format and tool_format not in formats.FORMATS:
            raise ModelError(f"there is no tool format '{tool_format}'; known are {', '.join(sorted(formats.FORMATS))}")
        self.format: Format = formats.FORMATS[tool_format] if tool_format else formats.find(source)
        self._control_tokens = TokenTexts(control_tokens, max_literals)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._tool_use = tool_use
        self._mentions_developer = bool(re.search(r"['\"]developer['\"]", source))

    def for_tools(self, has_tools: bool) -> "ChatTemplate":
        """The one that renders a conversation with tools, or without: most models have one for both. Raises
        TemplateError where that one is broken."""
        return self._tool_use() if has_tools and self._tool_use is not None else self

    def render(self, messages: list[Message], /, **options: Any) -> str:
        """The text of a prompt alone; see `prompt`."""
        return self.prompt(messages, **options).text

    def prompt(
        self,
        messages: list[Message],
        /,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> Prompt:
        """The prompt of a conversation; `kwargs` are further variables for the template.

        With `continue_final_message` it ends with the last message's text, and no turn is opened or closed after it.
        Raises TemplateError, and InvalidRequestError for content that is not text.
        """
        messages = normalise(messages)
        if continue_final_message:
            text, literals = self._render_open(messages, tools, kwargs)
        else:
            text, literals = self._render(messages, tools, {**kwargs, "add_generation_prompt": add_generation_prompt})
        return Prompt(text, reasoning_state(text, self.format.reasoning), literals)

    def _render(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, variables: dict[str, Any]
    ) -> Revealed:
        own_markers = () if self.format.channels else self.format.reasoning  # some templates look for them
        hidden = self._control_tokens.hide([messages, tools or []], but=own_markers)
        messages, tools = hidden.value
        try:
            traits = self._traits
            messages = repair(messages, tools, traits, self.format)
            tools = whole_schemas(tools) if tools and traits.needs_whole_schemas else tools
            return hidden.reveal(self._run(messages, tools, variables))
        except RefusalError as error:
            raise TemplateError(f"The chat template refuses this conversation: {_explain(error)}") from error
        except Exception as error:  # whatever a template raises is its failure, not the worker's
            raise TemplateError(f"The chat template failed: {_explain(error)}") from error

    def _render_open(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, variables: dict[str, Any]
    ) -> Revealed:
        """Up to a mark behind the last message's text: where it ends, only rendering shows."""
        *earlier, last = messages
        if not last["content"]:
            return self._render(earlier, tools, {**variables, "add_generation_prompt": True})
        mark = f"[{secrets.token_hex(16)}]"
        marked = {key: value for key, value in last.items() if key != "prefix"} | {"content": last["content"] + mark}
        text, literals = self._render([*earlier, marked], tools, {**variables, "add_generation_prompt": False})
        prompt, found, _ = text.rpartition(mark)
        if not found:
            raise TemplateError("The chat template does not show the last message, so it cannot be continued.")
        return Revealed(prompt, tuple(span for span in literals if span[1] <= len(prompt)))

    @cached_property
    def _traits(self) -> Traits:
        def render(messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
            return self._run(messages, tools, {"add_generation_prompt": True})

        return find_traits(render, self.format, mentions_developer=self._mentions_developer)

    def _run(self, messages: list[Message], tools: list[dict[str, Any]] | None, variables: dict[str, Any]) -> str:
        own = {"messages": messages, "tools": tools or None, **self._tokens}
        return self._program.run({"documents": None, **self._older_variables(tools), **variables, **own})

    def _older_variables(self, tools: list[dict[str, Any]] | None) -> dict[str, str]:
        """What templates read that are older than `tools` and `strftime_now`: firefunction's."""
        functions = [tool.get("function", tool) for tool in tools or []]
        older = {
            "functions": json.dumps(functions, ensure_ascii=False, indent=4),
            "datetime": datetime.now().strftime("%Y-%m-%d"),
        }
        return {name: value for name, value in older.items() if name in self._program.variables}


def model_template(
    source: str | None,
    *,
    bos_token: str,
    eos_token: str,
    tool_format: str = "",
    control_tokens: Collection[str] = (),
    max_literals: int = MAX_LITERALS,
    tool_use: str | None = None,
) -> Callable[[], ChatTemplate]:
    """Gives the template of a model's file, which may have a second one for tools (`tool_use`). Never fails itself:
    what it returns raises TemplateError when asked."""
    if not source:
        return _no_template("This model has no chat template.")
    make = partial(
        ChatTemplate,
        bos_token=bos_token,
        eos_token=eos_token,
        tool_format=tool_format,
        control_tokens=control_tokens,
        max_literals=max_literals,
    )
    with_tools = _given(make, tool_use, "own template for tools") if tool_use else None
    return _given(partial(make, tool_use=with_tools), source, "own template")


def _given(make: Callable[[str], ChatTemplate], source: str, which: str) -> Callable[[], ChatTemplate]:
    try:
        template = make(source)
    except ModelError as error:
        return _no_template(f"This model's {which} cannot be used: {error}.")
    return lambda: template


def _no_template(reason: str) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise TemplateError(f"{reason} Use /v1/completions, or set CHAT_TEMPLATE.")

    return refuse


def _explain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return str(error)[:MAX_ERROR_CHARS] or type(error).__name__
