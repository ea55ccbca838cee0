"""Finds out what a template can do, by rendering small conversations and looking for what they say."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from handler.chat.conversation import Tool, Traits, repair, whole_schemas
from handler.chat.formats.format import Format
from handler.chat.messages import Message

Render = Callable[[list[Message], list[Tool] | None], str]

SYSTEM = {"role": "system", "content": "probe_system"}
USER = {"role": "user", "content": "probe_user"}
ANSWER = {"role": "assistant", "content": "probe_answer"}
PARAMETERS = {
    "type": "object",
    "properties": {"probe_key": {"type": "string"}, "probe_object": {"type": "object"}},
    "required": ["probe_key"],
}
TOOL = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "probe_description", "parameters": PARAMETERS},
}


# Values as Python or twice encoded JSON would show them: the template expects another form.
NOT_MEANT = re.compile(r"""\{'probe_key'|\\"probe_key|\{'type': 't(?:hinking|ext)|"type": "t(?:hinking|ext)""")
FIRST, SECOND = "probe_first", "probe_second"  # what distinguishes two calls of the same tool, and their results


def _calling(*values: str, **more: str) -> Message:
    calls = [
        {
            "id": value,
            "type": "function",
            "function": {"name": "probe_tool", "arguments": f'{{"probe_key": "{value}"}}'},
        }
        for value in values
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def _result(value: str) -> Message:
    return {"role": "tool", "tool_call_id": value, "content": value.upper()}


def find_traits(render: Render, format: Format, *, mentions_developer: bool) -> Traits:
    """Renders some thirty small conversations. What a template shows in no form stays in the first form."""
    probe = _Probe(render, format)
    probe.choose([USER], ["probe_user"], _each("wants_parts", False, True))
    probe.choose([USER], ["probe_user"], _each("needs_whole_schemas", False, True))
    between = [SYSTEM, USER, ANSWER, {**SYSTEM, "content": "probe_between"}, USER]
    probe.choose(between, ["probe_system", "probe_between"], _each("system", "anywhere", "first", "nowhere"))
    probe.choose([USER], ["probe_user", "probe_description"], _each("shows_tools", True, False))
    if mentions_developer:
        probe.traits = replace(probe.traits, keeps_developer=True)
        developer = {"role": "developer", "content": "probe_developer"}
        probe.choose([developer, USER], ["probe_developer"], _each("keeps_developer", True, False))
    probe.choose([USER, _calling(FIRST), _result(FIRST)], ["probe_key", FIRST, FIRST.upper()], _ways_to_call())
    both = [USER, _calling(FIRST, SECOND), _result(FIRST), _result(SECOND)]
    shown = [FIRST, SECOND, FIRST.upper(), SECOND.upper()]
    probe.choose(both, shown, _each("one_call_each", False, True))
    thinking = [USER, _calling(FIRST, reasoning_content="probe_reasoning"), _result(FIRST)]
    fields = _each("reasoning", "reasoning_content", "thinking", "reasoning", "part")
    probe.choose(thinking, ["probe_reasoning", FIRST], fields)
    beside = [USER, _calling(FIRST, content="probe_text"), _result(FIRST)]
    probe.choose(beside, ["probe_text", FIRST, FIRST.upper()], _each("text_apart", False, True))
    with_all = [USER, _calling(FIRST, content="probe_text", reasoning_content="probe_reasoning"), _result(FIRST)]
    probe.choose(with_all, [FIRST], _each("reasoning_is_text", False, True))
    probe.choose([*beside, USER], [FIRST, "probe_user"], _each("user_follows_tool", True, False))
    return probe.traits


def _each(trait: str, *values: Any) -> list[dict[str, Any]]:
    return [{trait: value} for value in values]


def _ways_to_call() -> list[dict[str, Any]]:
    """Calls as such with the results in their own role, then in the user's; at last all of it as text."""
    forms = [
        {"results": role, "no_content": content, "arguments": arguments}
        for role, content, arguments in itertools.product(("tool", "user"), ("", None), ("object", "text"))
    ]
    return forms + [{"results": role, "arguments": "written"} for role in ("tool", "user")]


class _Probe:
    def __init__(self, render: Render, format: Format) -> None:
        self.traits = Traits()
        self._render = render
        self._format = format

    def choose(
        self, messages: Sequence[Message], needles: Iterable[str], alternatives: Sequence[dict[str, Any]]
    ) -> None:
        """Takes the first alternative with which everything in the messages is shown."""
        for alternative in alternatives:
            traits = replace(self.traits, **alternative)
            if self._shows(messages, needles, traits):
                self.traits = traits
                return

    def _shows(self, messages: Sequence[Message], needles: Iterable[str], traits: Traits) -> bool:
        tools = whole_schemas([TOOL]) if traits.needs_whole_schemas else [TOOL]
        try:
            text = self._render(repair(messages, tools, traits, self._format), tools)
        except Exception:  # whatever a template raises: it cannot do this
            return False
        return all(needle in text for needle in needles) and not NOT_MEANT.search(text)
