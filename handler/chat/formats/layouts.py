"""How each family's calls are written, to the last blank: for templates that show none, and for grammars.

In a layout `{name}`, `{arguments}`, `{index}` and `{id}` are a call's; `{key}` and `{value}` are an argument's.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Values = Literal["json", "raw", "python", "braces"]


class WrittenCall(NamedTuple):
    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Layout:
    """`before` and `after` stand around all calls, `between` between two.

    With `argument`, arguments are written one by one, so: `{arguments}` are all of them, and strings stand there as
    they are. Without it they are one JSON object, or in the family's own syntax: see `values`. `nesting` marks the tags
    of which a list or an object is made within a value.
    """

    call: str
    before: str = ""
    between: str = ""
    after: str = ""
    argument: str = ""
    argument_separator: str = ""
    values: Values = "json"
    quote: str = ""  # of strings in braces
    nesting: str = ""

    def write(self, calls: Sequence[WrittenCall]) -> str:
        return self.before + self.between.join(map(self._write_call, range(len(calls)), calls)) + self.after

    def _write_call(self, index: int, call: WrittenCall) -> str:
        parts = {
            "{name}": call.name,
            "{index}": str(index),
            "{id}": call.id or f"call_{index}",
            "{arguments}": self._write_arguments(call.arguments),
        }
        return _fill(self.call, parts)

    def _write_arguments(self, arguments: Mapping[str, Any]) -> str:
        if not self.argument:
            return _to_json(arguments)
        write = self._writer()
        return self.argument_separator.join(
            _fill(
                self.argument,
                {"{key}": key, "{type}": _kind(value), "{string}": _is_text(value), "{value}": write(value)},
            )
            for key, value in arguments.items()
        )

    def _writer(self) -> Callable[[Any], str]:
        writers: dict[Values, Callable[[Any], str]] = {
            "json": _to_json,
            "raw": lambda value: _to_tags(value, self.nesting) if self.nesting else _to_raw(value),
            "python": repr,
            "braces": lambda value: _to_braces(value, self.quote),
        }
        return writers[self.values]


def _fill(layout: str, parts: Mapping[str, str]) -> str:
    """Fills a layout's places: what stands in a value is none."""
    return re.sub("|".join(map(re.escape, parts)), lambda place: parts[place.group()], layout)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _to_raw(value: Any) -> str:
    return value if isinstance(value, str) else _to_json(value)


def _to_tags(value: Any, mark: str) -> str:
    if isinstance(value, Mapping):
        return "".join(f"{mark}<{key}>{_to_tags(item, mark)}{mark}</{key}>" for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"{mark}<item>{_to_tags(item, mark)}{mark}</item>" for item in value)
    return _to_raw(value)


def _kind(value: Any) -> str:
    """The type as Kimi K3 names it."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _is_text(value: Any) -> str:
    return "true" if isinstance(value, str) else "false"


def _to_braces(value: Any, quote: str) -> str:
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_to_braces(item, quote)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_to_braces(item, quote) for item in value) + "]"
    return _to_json(value)


def _glm(suffix: str, before: str = "", name_end: str = "\n", after: str = "") -> Layout:
    return Layout(
        f"<tool_call{suffix}>{{name}}{name_end}{{arguments}}</tool_call{suffix}>",
        before=before,
        between="\n",
        after=after,
        argument=f"<arg_key{suffix}>{{key}}</arg_key{suffix}>\n<arg_value{suffix}>{{value}}</arg_value{suffix}>\n",
        values="raw",
    )


_OBJECT = '{"name": "{name}", "arguments": {arguments}}'

LAYOUTS: Mapping[str, Layout] = {
    "harmony": Layout(
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}<|call|>",
        between="<|start|>assistant",
    ),
    "atem": Layout(
        ' to={name}<|message|><atem:function_calls>\n<atem:invoke name="{name}">\n{arguments}</atem:invoke>\n'
        "</atem:function_calls>",
        between="<|eom|><|start|>assistant",
        argument='<atem:parameter name="{key}">{value}</atem:parameter>\n',
        values="raw",
    ),
    "functionary_3.2": Layout("{name}\n{arguments}", between=">>>"),
    "functionary_3.1": Layout("<function={name}>{arguments}</function>"),
    "kimi_k2": Layout(
        "<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>",
        before="<|tool_calls_section_begin|>",
        after="<|tool_calls_section_end|>",
    ),
    "kimi_k3": Layout(
        '<|open|>call tool="{name}" index="{index}"<|sep|>{arguments}<|close|>call<|sep|>',
        before="<|open|>tools<|sep|>",
        after="<|close|>tools<|sep|>",
        argument='<|open|>argument key="{key}" type="{type}"<|sep|>{value}<|close|>argument<|sep|>',
        values="raw",
    ),
    "dsml": Layout(
        '<｜DSML｜invoke name="{name}">\n{arguments}</｜DSML｜invoke>\n',
        before="\n\n<｜DSML｜function_calls>\n",
        after="</｜DSML｜function_calls>",
        argument='<｜DSML｜parameter name="{key}" string="{string}">{value}</｜DSML｜parameter>\n',
        values="raw",
    ),
    "deepseek_r1": Layout(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>",
        between="\n",
        before="<｜tool▁calls▁begin｜>",
        after="<｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": Layout(
        "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
        before="<｜tool▁calls▁begin｜>",
        after="<｜tool▁calls▁end｜>",
    ),
    "solar": Layout(
        "<|tool_call:begin|>{id}<|tool_call:name|>{name}<|tool_call:args|>{arguments}<|tool_call:end|>",
        before="<|tool_calls|>",
        after="<|calls|>",
    ),
    "hy": _glm(":opensource", "<tool_calls:opensource>\n", "<tool_sep:opensource>\n", "\n</tool_calls:opensource>"),
    "glm": _glm(""),
    "gemma4": Layout(
        "<|tool_call>call:{name}{{arguments}}<tool_call|>",
        argument="{key}:{value}",
        argument_separator=",",
        values="braces",
        quote='<|"|>',
    ),
    "functiongemma": Layout(
        "<start_function_call>call:{name}{{arguments}}<end_function_call>",
        argument="{key}:{value}",
        argument_separator=",",
        values="braces",
        quote="<escape>",
    ),
    "minimax_m3": Layout(
        ']<]minimax[>[<invoke name="{name}">{arguments}]<]minimax[>[</invoke>\n',
        before="]<]minimax[>[<tool_call>\n",
        after="]<]minimax[>[</tool_call>",
        argument="]<]minimax[>[<{key}>{value}]<]minimax[>[</{key}>",
        values="raw",
        nesting="]<]minimax[>[",
    ),
    "minimax_m2": Layout(
        '<invoke name="{name}">\n{arguments}</invoke>\n',
        before="<minimax:tool_call>\n",
        after="</minimax:tool_call>",
        argument='<parameter name="{key}">{value}</parameter>\n',
        values="raw",
    ),
    "minicpm5": Layout(
        '<function name="{name}">{arguments}</function>',
        between="\n",
        argument='<param name="{key}">{value}</param>',
        values="raw",
    ),
    "seed": Layout(
        "<seed:tool_call>\n<function={name}>\n{arguments}</function>\n</seed:tool_call>",
        between="\n",
        argument="<parameter={key}>{value}</parameter>\n",
        values="raw",
    ),
    "qwen3_coder": Layout(
        "<tool_call>\n<function={name}>\n{arguments}</function>\n</tool_call>",
        between="\n",
        argument="<parameter={key}>\n{value}\n</parameter>\n",
        values="raw",
    ),
    "cohere": Layout(
        '    {"tool_call_id": "{index}", "tool_name": "{name}", "parameters": {arguments}}',
        before="<|START_ACTION|>[\n",
        between=",\n",
        after="\n]<|END_ACTION|>",
    ),
    "mistral_args": Layout("[TOOL_CALLS]{name}[ARGS]{arguments}"),
    "mistral_json": Layout(
        '{"name": "{name}", "arguments": {arguments}, "id": "{id}"}', before="[TOOL_CALLS][", between=", ", after="]"
    ),
    "lfm2": Layout(
        "{name}({arguments})",
        before="<|tool_call_start|>[",
        between=", ",
        after="]<|tool_call_end|>",
        argument="{key}={value}",
        argument_separator=", ",
        values="python",
    ),
    "pythonic": Layout(
        "{name}({arguments})",
        before="[",
        between=", ",
        after="]",
        argument="{key}={value}",
        argument_separator=", ",
        values="python",
    ),
    "apertus": Layout('{"{name}": {arguments}}', before="<|tools_prefix|>[", between=", ", after="]<|tools_suffix|>"),
    "nemotron_v2": Layout(_OBJECT, before="<TOOLCALL>[", between=", ", after="]</TOOLCALL>"),
    "apriel": Layout(_OBJECT, before="<tool_calls>[", between=", ", after="]</tool_calls>"),
    "minimax_m1": Layout(_OBJECT + "\n", before="<tool_calls>\n", after="</tool_calls>"),
    "gigachat3.1": Layout("<|function_call|>" + _OBJECT),
    "gigachat3": Layout("<|message_sep|>\n\nfunction call<|role_sep|>\n" + _OBJECT),
    "granite3": Layout(_OBJECT, before="<|tool_call|>[", between=", ", after="]"),
    "firefunction": Layout(_OBJECT, before=" functools[", between=", ", after="]"),
    "hermes": Layout(f"<tool_call>\n{_OBJECT}\n</tool_call>", between="\n"),
    "command_r_plus": Layout(
        '    {"tool_name": "{name}", "parameters": {arguments}}',
        before="Action:\n```json\n[\n",
        between=",\n",
        after="\n]```",
    ),
    "llama3": Layout('{"name": "{name}", "parameters": {arguments}}', between="; "),
    "generic": Layout(_OBJECT, between="\n"),
}
