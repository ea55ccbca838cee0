"""The tools of a request in the form of Anthropic's Messages, as a chat's. Pure. Raises InvalidRequestError.

Those that Anthropic's servers run, or that Anthropic's models were trained on without a schema, are left out: clients
send them with every request. A tool may be deferred, and be offered by a block in the conversation later on; chats have
one list of tools, which is what is offered at the conversation's end.
"""

from collections.abc import Iterator
from typing import Any

from handler.api.fields import object_at, show, text_at, unsupported, wrong

Json = dict[str, Any]

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
CHANGES = ("tool_addition", "tool_removal")  # blocks of system messages


def tools_of(body: Json) -> Json:
    """`tools`, `tool_choice` and `parallel_tool_calls` of the chat."""
    tools = body.get("tools", [])
    if not isinstance(tools, list):
        raise wrong("tools", f"must be a list (got {show(tools)})")
    offered = _Offered()
    for i, tool in enumerate(tools):
        offered.declare(object_at(tool, f"tools[{i}]"), f"tools[{i}]")
    for block, param in _blocks(body.get("messages")):
        offered.change(block, param)
    chat: Json = {"tools": offered.tools()}
    return chat | _choice(body["tool_choice"]) if "tool_choice" in body else chat if chat["tools"] else {}


class _Offered:
    """The client's own tools by name, and which of them the model is offered."""

    def __init__(self) -> None:
        self._tools: dict[str, tuple[Json, bool]] = {}  # in a chat's form; whether it is offered

    def declare(self, tool: Json, param: str) -> None:
        if tool.get("type") not in (None, "custom"):
            return
        if "input_schema" not in tool:
            raise wrong(f"{param}.input_schema", "is missing")
        names = {"name": "name", "description": "description", "input_schema": "parameters", "strict": "strict"}
        function = {new: tool[old] for old, new in names.items() if old in tool}
        name = text_at(tool, "name", param)
        if name in self._tools:
            raise wrong(f"{param}.name", f"is twice in 'tools' (got {show(name)})")
        self._tools[name] = ({"type": "function", "function": function}, tool.get("defer_loading") is not True)

    def change(self, block: Json, param: str) -> None:
        """By a block that offers a tool or takes it back; a result that refers to one offers it, too."""
        if block.get("type") == "tool_reference":
            self._set(text_at(block, "tool_name", param), is_offered=True)
            return
        tool = object_at(block.get("tool"), f"{param}.tool")
        match tool.get("type"):
            case "tool_reference":
                self._set(text_at(tool, "name", f"{param}.tool"), is_offered=block["type"] == "tool_addition")
            case "tool_definition" if block["type"] == "tool_addition":
                definition = object_at(tool.get("definition"), f"{param}.tool.definition")
                self._tools.pop(str(definition.get("name")), None)
                self.declare({**definition, "defer_loading": False}, f"{param}.tool.definition")
            case kind:
                raise unsupported(f"{param}.tool", f"this worker knows no tool of type {show(kind)} here")

    def _set(self, name: str, *, is_offered: bool) -> None:
        if name in self._tools:  # another is one of those that were left out
            self._tools[name] = (self._tools[name][0], is_offered)

    def tools(self) -> list[Json]:
        return [tool for tool, is_offered in self._tools.values() if is_offered]


def _blocks(messages: object) -> Iterator[tuple[Json, str]]:
    """The blocks of the conversation that change what is offered, in their order, and where they are."""
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for j, block in enumerate(content if isinstance(content, list) else ()):
            kind = block.get("type") if isinstance(block, dict) else None
            if kind in CHANGES:
                yield block, f"messages[{i}].content[{j}]"
            parts = block.get("content") if kind == "tool_result" else None
            for k, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict) and part.get("type") == "tool_reference":
                    yield part, f"messages[{i}].content[{j}].content[{k}]"


def _choice(value: object) -> Json:
    choice = object_at(value, "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        chat: Json = {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}}
    elif isinstance(kind, str) and kind in CHOICES:
        chat = {"tool_choice": CHOICES[kind]}
    else:
        raise wrong("tool_choice.type", f"must be auto, any, tool or none (got {show(kind)})")
    return chat | ({"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {})
