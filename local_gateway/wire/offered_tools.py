"""Which tools a request of Anthropic's Messages offers at the end of its conversation. Pure.

Tools may be deferred, be offered by a block of a system message or by a result that refers to them, and be taken back.
Chats have one list of tools.
"""

from collections.abc import Iterator
from typing import Any

from local_gateway.errors import InvalidRequestError

Json = dict[str, Any]

CHANGES = ("tool_addition", "tool_removal")  # blocks of system messages


def offered_tools(body: Json) -> list[Json]:
    """Those of the client's own; what Anthropic's servers run has no schema. Raises InvalidRequestError."""
    tools = {str(tool.get("name")): tool for tool in body.get("tools") or [] if _is_own(tool)}
    offered = {name: tool.get("defer_loading") is not True for name, tool in tools.items()}
    for block in _changes(body.get("messages")):
        tool = block if block.get("type") == "tool_reference" else block.get("tool") or {}
        match tool.get("type"):
            case "tool_reference":
                offered[str(tool.get("tool_name") or tool.get("name"))] = block.get("type") != "tool_removal"
            case "tool_definition" if _is_own(tool.get("definition")):
                name = str(tool["definition"].get("name"))
                tools[name], offered[name] = tool["definition"], True
            case kind:
                message = f"A tool of type {str(kind)[:40]!r} cannot be used with this model."
                raise InvalidRequestError(message, param="messages")
    return [tool for name, tool in tools.items() if offered[name]]


def _is_own(tool: object) -> bool:
    return isinstance(tool, dict) and "input_schema" in tool


def _changes(messages: object) -> Iterator[Json]:
    """Blocks that change what is offered, in their order."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for block in content if isinstance(content, list) else ():
            kind = block.get("type") if isinstance(block, dict) else None
            if kind in CHANGES:
                yield block
            parts = block.get("content") if kind == "tool_result" else None
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and part.get("type") == "tool_reference":
                    yield part
