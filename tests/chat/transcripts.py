"""What models of each family write: answers made of reasoning, text and calls, and how they are parsed."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from handler.chat.events import Arguments, CallBegun, CallEnded, Content, Event, Reasoning
from handler.chat.formats.format import Format
from handler.chat.formats.layouts import WrittenCall
from handler.chat.output import OutputParser
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import Tools


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schemas = {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in properties.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": schemas}}}


TOOLS = [
    tool("get_weather", city="string", days="integer", options="object"),
    tool("write_file", path="string", text="string"),
    tool("get_time"),
]


class Answer(NamedTuple):
    """All that a client gets. Arguments are the JSON text; a call that was cut says so."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]
    is_cut: bool = False

    @property
    def parsed_calls(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def fold(events: Iterable[Event]) -> Answer:
    """Events as one answer; says where their order is wrong."""
    texts: dict[type, str] = {Reasoning: "", Content: ""}
    calls: list[tuple[str, str]] = []
    num_ended = 0
    for event in events:
        match event:
            case Reasoning(text) | Content(text):
                assert text, "an event says something"
                assert num_ended == len(calls), "no text within a call"
                texts[type(event)] += text
            case CallBegun(call, name):
                assert call == len(calls) == num_ended
                assert name
                calls.append((name, ""))
            case Arguments(call, text):
                assert call == len(calls) - 1 == num_ended
                assert text
                calls[call] = (calls[call][0], calls[call][1] + text)
            case CallEnded(call):
                assert call == len(calls) - 1 == num_ended
                num_ended += 1
    return Answer(texts[Reasoning], texts[Content], tuple(calls), num_ended < len(calls))


def pieces(text: str, size: int) -> Iterator[str]:
    yield from (text[start : start + size] for start in range(0, len(text), size))


def parse(
    format: Format,
    parts: str | Iterable[str],
    tools: Sequence[dict[str, Any]] = TOOLS,
    starts_in: ReasoningState = ReasoningState.UNDECIDED,
) -> Answer:
    parser = OutputParser(format, starts_in, tools=Tools(tools))
    events = [event for part in ([parts] if isinstance(parts, str) else parts) for event in parser.feed(part)]
    events += parser.finish()
    answer = fold(events)
    assert parser.is_cut == answer.is_cut
    return answer


def parse_in_any_cut(format: Format, text: str, **more: Any) -> Answer:
    """The one answer that a text gives whole, one character at a time, and seven at a time."""
    answer = parse(format, text, **more)
    for size in (1, 7):
        assert parse(format, pieces(text, size), **more) == answer, f"{size} characters at a time"
    return answer


def thinking(format: Format, text: str) -> str:
    pair = format.reasoning
    if format.name == "atem":
        return f" to=self<|message|>{text}<|eom|><|start|>assistant"
    return f"{pair.opens}{text}{pair.closes}" + ("<|start|>assistant" if format.channels else "")


def saying(format: Format, text: str) -> str:
    match format.name:
        case "harmony":
            return f"<|channel|>commentary<|message|>{text}<|end|><|start|>assistant"
        case "atem":
            return f" to=user<|message|>{text}<|eom|><|start|>assistant"
        case "functionary_3.2":
            return f"all\n{text}>>>"
        case _:
            return text


def calling(format: Format, *calls: tuple[str, dict[str, Any]]) -> str:
    return format.layout.write([WrittenCall(name, arguments) for name, arguments in calls])
