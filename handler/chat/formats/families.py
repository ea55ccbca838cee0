"""Every family of models: its markers, and the shape of its calls."""

import re

from handler.chat.formats.call_syntax import BracedCalls, CodeCall, PythonCalls
from handler.chat.formats.calls import CallShape
from handler.chat.formats.format import Channels, Format, Pair
from handler.chat.formats.json_calls import JsonCalls
from handler.chat.formats.named_json import NAME, NamedJson
from handler.chat.formats.tagged import Tag, TaggedCalls
from handler.chat.formats.values import ValueSyntax


def _starts(shape: CallShape, *markers: str) -> dict[str, tuple[CallShape, ...]]:
    return dict.fromkeys(markers, (shape,))


# JSON that no marker announces, as Qwen2.5-Coder writes it: fenced or bare, as the whole answer.
BARE_JSON = _starts(JsonCalls(ends=("```",)), "{", "[", "```json", "```")

HARMONY = Format(
    "harmony",
    channels=Channels("<|start|>", "<|channel|>", "<|message|>", ("<|end|>", "<|call|>", "<|return|>")),
    reasoning=Pair("<|channel|>analysis<|message|>", "<|end|>"),
    has_parallel_calls=False,
)

ATEM = Format(
    "atem",
    _starts(
        TaggedCalls(
            call=Tag('<atem:invoke name="', ">"),
            call_ends=("</atem:invoke>",),
            argument=Tag('<atem:parameter name="', ">"),
            value_end="</atem:parameter>",
            ends=("</atem:function_calls>",),
            begins=('<atem:invoke name="',),
        ),
        "<atem:function_calls>",
        '<atem:invoke name="',
    ),
    channels=Channels("<|start|>", "", "<|message|>", ("<|eom|>", "<|eot|>")),
    reasoning=Pair(" to=self<|message|>", "<|eom|>"),
)

FUNCTIONARY_3_2 = Format(
    "functionary_3.2",
    _starts(NamedJson(re.compile(NAME), header_ends=("\n",), begins=(">>>",)), ">>>"),
    dropped=(">>>all\n",),
    implied=">>>",
)

FUNCTIONARY_3_1 = Format(
    "functionary_3.1",
    _starts(NamedJson(re.compile(NAME), header_ends=(">",), ends=("</function>", "<|eom_id|>")), "<function=")
    | _starts(CodeCall(ends=("<|eom_id|>",)), "<|python_tag|>"),
)

KIMI_K2 = Format(
    "kimi_k2",
    _starts(
        NamedJson(
            re.compile(rf"(?:functions\.)?{NAME}(?::\d+)?"),  # the name is in the id only
            openers=("<|tool_call_begin|>",),
            header_ends=("<|tool_call_argument_begin|>",),
            ends=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        ),
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
    ),
    call_ends_reasoning=True,
    ids="counted",
)

KIMI_K3 = Format(
    "kimi_k3",
    _starts(
        TaggedCalls(
            call=Tag('<|open|>call tool="', "<|sep|>"),
            call_ends=("<|close|>call<|sep|>",),
            argument=Tag('<|open|>argument key="', "<|sep|>"),
            value_end="<|close|>argument<|sep|>",
            explicit="type",
            ends=("<|close|>tools<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>"),
            begins=('<|open|>call tool="',),
        ),
        "<|open|>tools<|sep|>",
        '<|open|>call tool="',
    ),
    reasoning=Pair("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    answers=("<|open|>response<|sep|>",),
    dropped=(
        *("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
        *("<|close|>tools<|sep|>", "<|close|>message<|sep|>", "<|end_of_msg|>"),
    ),
)

DSML = Format(
    "dsml",
    _starts(
        TaggedCalls(
            call=Tag('<｜DSML｜invoke name="', ">"),
            call_ends=("</｜DSML｜invoke>",),
            argument=Tag('<｜DSML｜parameter name="', ">"),
            value_end="</｜DSML｜parameter>",
            explicit="string",
            ends=("</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"),
            begins=('<｜DSML｜invoke name="',),
        ),
        "<｜DSML｜function_calls>",
        "<｜DSML｜tool_calls>",
        '<｜DSML｜invoke name="',
    ),
    call_ends_reasoning=True,
)

DEEPSEEK_R1 = Format(
    "deepseek_r1",
    _starts(
        NamedJson(
            re.compile(NAME),
            openers=("<｜tool▁call▁begin｜>", "function<｜tool▁sep｜>"),
            header_ends=("\n",),
            fences=("```json",),
            ends=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        ),
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
    ),
)

DEEPSEEK_V3_1 = Format(
    "deepseek_v31",
    _starts(
        NamedJson(
            re.compile(NAME),
            openers=("<｜tool▁call▁begin｜>",),
            header_ends=("<｜tool▁sep｜>",),
            ends=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        ),
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
    ),
)

SOLAR = Format(
    "solar",
    _starts(
        NamedJson(
            re.compile(rf"(?:[^<]*<\|tool_call:name\|>)?{NAME}"),  # an id stands before the name
            openers=("<|tool_call:begin|>",),
            header_ends=("<|tool_call:args|>",),
            ends=("<|tool_call:end|>", "<|calls|>"),
        ),
        "<|tool_calls|>",
        "<|tool_call:begin|>",
    ),
    reasoning=Pair("<|think|>", "<|end|>"),
    dropped=("<|begin|>assistant", "<|content|>", "<|end|>"),
)


def _glm(name: str, suffix: str, call: Tag, name_ends: tuple[str, ...], sections: tuple[str, ...] = ()) -> Format:
    """Keys and values as tags beside each other. Hunyuan writes `:opensource` into each tag."""
    start, end = f"<tool_call{suffix}>", f"</tool_call{suffix}>"
    shape = TaggedCalls(
        call=call,
        call_ends=(end,),
        argument=Tag(f"<arg_key{suffix}>", f"</arg_key{suffix}>"),
        value_opens=f"<arg_value{suffix}>",
        value_end=f"</arg_value{suffix}>",
        name_ends=name_ends,
        ends=tuple(section.replace("<", "</") for section in sections),
        begins=(start,),
    )
    return Format(
        name,
        _starts(shape, start, *sections),
        reasoning=Pair(f"<think{suffix}>", f"</think{suffix}>"),
        call_ends_reasoning=True,
    )


HY = _glm(
    "hy",
    ":opensource",
    Tag("<tool_call:opensource>", "<tool_sep:opensource>"),
    (),
    sections=("<tool_calls:opensource>",),
)
GLM = _glm("glm", "", Tag("", ""), ("\n", "<arg_key>", "</tool_call>"))

GEMMA_4 = Format(
    "gemma4",
    _starts(
        BracedCalls(ValueSyntax(('<|"|>',), has_escapes=False, ends=("<tool_call|>",)), ends=("<tool_call|>",)),
        "<|tool_call>",
    ),
    reasoning=Pair("<|channel>thought\n", "<channel|>"),
    reasons_anywhere=True,
    dropped=("<|channel>", "<channel|>"),
)

FUNCTION_GEMMA = Format(
    "functiongemma",
    _starts(
        BracedCalls(
            ValueSyntax(("<escape>",), has_escapes=False, ends=("<end_function_call>",)), ends=("<end_function_call>",)
        ),
        "<start_function_call>",
    ),
)

MINIMAX_M3 = Format(
    "minimax_m3",
    _starts(
        TaggedCalls(
            call=Tag(']<]minimax[>[<invoke name="', ">"),
            call_ends=("]<]minimax[>[</invoke>",),
            argument=Tag("]<]minimax[>[<", ">"),
            value_end="]<]minimax[>[</{key}>",
            nesting="]<]minimax[>[",
            ends=("]<]minimax[>[</tool_call>",),
            begins=(']<]minimax[>[<invoke name="',),
        ),
        "]<]minimax[>[<tool_call>",
        ']<]minimax[>[<invoke name="',
    ),
    reasoning=Pair("<mm:think>", "</mm:think>"),
)

MINIMAX_M2 = Format(
    "minimax_m2",
    _starts(
        TaggedCalls(
            call=Tag('<invoke name="', ">"),
            call_ends=("</invoke>",),
            argument=Tag('<parameter name="', ">"),
            value_end="</parameter>",
            ends=("</minimax:tool_call>",),
            begins=('<invoke name="',),
        ),
        "<minimax:tool_call>",
        '<invoke name="',
    ),
)

MINICPM_5 = Format(
    "minicpm5",
    _starts(
        TaggedCalls(
            call=Tag('<function name="', ">"),
            call_ends=("</function>",),
            argument=Tag('<param name="', ">"),
            value_end="</param>",
            begins=('<function name="',),
        ),
        '<function name="',
    ),
)


def _functions(name: str, outer: str, *, newlines: bool, reasoning: Pair) -> Format:
    """Qwen's tags in those of a family. The outer tag is at times missing."""
    end = outer.replace("<", "</")
    shape = TaggedCalls(
        call=Tag("<function=", ">"),
        call_ends=("</function>",),
        argument=Tag("<parameter=", ">"),
        value_end="</parameter>",
        newlines=newlines,
        ends=(end,),
        begins=(outer, "<function="),
    )
    return Format(name, _starts(shape, outer, "<function="), reasoning=reasoning, call_ends_reasoning=True)


SEED = _functions("seed", "<seed:tool_call>", newlines=False, reasoning=Pair("<seed:think>", "</seed:think>"))
QWEN_3_CODER = _functions("qwen3_coder", "<tool_call>", newlines=True, reasoning=Pair("<think>", "</think>"))

COHERE = Format(
    "cohere",
    _starts(JsonCalls(name_keys=("tool_name", "name"), ends=("<|END_ACTION|>",)), "<|START_ACTION|>"),
    reasoning=Pair("<|START_THINKING|>", "<|END_THINKING|>"),
    answers=("<|START_RESPONSE|>", "<|START_TEXT|>"),
    dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)

# Both forms in both: finetunes keep a template and answer in the other one.
_MISTRAL_SHAPES = (
    JsonCalls(),
    NamedJson(re.compile(rf"{NAME}(?:\[CALL_ID\]\w*)?"), header_ends=("[ARGS]", "{"), begins=("[TOOL_CALLS]",)),
)
_MISTRAL_REASONING = Pair("[THINK]", "[/THINK]")
MISTRAL_ARGS = Format("mistral_args", {"[TOOL_CALLS]": _MISTRAL_SHAPES}, reasoning=_MISTRAL_REASONING, ids="nine")
MISTRAL_JSON = Format("mistral_json", {"[TOOL_CALLS]": _MISTRAL_SHAPES}, reasoning=_MISTRAL_REASONING, ids="nine")

LFM_2 = Format(
    "lfm2",
    _starts(PythonCalls(ends=("<|tool_call_end|>",)), "<|tool_call_start|>"),
)

PYTHONIC = Format(
    "pythonic",
    _starts(PythonCalls(ends=("</function_calls>",)), "<function_calls>")
    | _starts(PythonCalls(ends=("<|python_end|>",)), "<|python_start|>"),
    bare=_starts(PythonCalls(), "["),
)

APERTUS = Format("apertus", _starts(JsonCalls(named_by_key=True, ends=("<|tools_suffix|>",)), "<|tools_prefix|>"))

NEMOTRON_V2 = Format("nemotron_v2", _starts(JsonCalls(ends=("</TOOLCALL>",)), "<TOOLCALL>"))

_TOOL_CALLS = _starts(JsonCalls(ends=("</tool_calls>",)), "<tool_calls>")
APRIEL = Format(
    "apriel",
    _TOOL_CALLS,
    reasoning=Pair("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    dropped=("[END FINAL RESPONSE]",),
)
MINIMAX_M1 = Format("minimax_m1", _TOOL_CALLS)

GIGACHAT_3_1 = Format(
    "gigachat3.1", _starts(JsonCalls(), "<|function_call|>"), dropped=("<|message_sep|>",), has_parallel_calls=False
)
GIGACHAT_3 = Format(
    "gigachat3",
    _starts(JsonCalls(), "<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n"),
    dropped=("<|message_sep|>",),
    has_parallel_calls=False,
)

GRANITE_3 = Format(
    "granite3",
    _starts(JsonCalls(ends=("<|/tool_call|>",)), "<|tool_call|>"),
    dropped=("<response>", "</response>"),
)

FIREFUNCTION = Format("firefunction", _starts(JsonCalls(), "functools"))

HERMES = Format("hermes", _starts(JsonCalls(ends=("</tool_call>",)), "<tool_call>"), bare=BARE_JSON)

COMMAND_R_PLUS = Format(
    "command_r_plus",
    _starts(
        JsonCalls(name_keys=("tool_name",), ends=("```",)), "Action: ```json", "Action:\n```json", "Action:```json"
    ),
    dropped=("Answer:",),
)

LLAMA_3 = Format(
    "llama3",
    {
        "<|python_tag|>": (
            JsonCalls(ends=("<|eom_id|>",)),
            PythonCalls(method=".call", ends=("<|eom_id|>",)),
            CodeCall(ends=("<|eom_id|>",)),
        )
    },
    bare=_starts(JsonCalls(ends=("<|eom_id|>",)), "{"),
    has_parallel_calls=False,
)

GENERIC = Format("generic", bare=BARE_JSON, answer_key="response")
