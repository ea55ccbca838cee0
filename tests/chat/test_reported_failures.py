"""What broke the parsers of others, by their own reports, as stories of ours."""

from typing import Any

import pytest

from handler.chat.formats import FORMATS, find
from handler.chat.output import OutputParser
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import Tools
from tests.chat.transcripts import TOOLS, Answer, calling, fold, parse, parse_in_any_cut, tool

HERMES, GLM, KIMI, QWEN_CODER = FORMATS["hermes"], FORMATS["glm"], FORMATS["kimi_k2"], FORMATS["qwen3_coder"]
HARMONY, LLAMA, DEEPSEEK, SEED = FORMATS["harmony"], FORMATS["llama3"], FORMATS["dsml"], FORMATS["seed"]


def qwen(name: str, *parameters: str) -> str:
    return f"<tool_call>\n<function={name}>\n{''.join(parameters)}</function>\n</tool_call>"


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def arguments_of(answer: Answer) -> Any:
    ((_, arguments),) = answer.parsed_calls
    return arguments


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ('{"a": {}, "n": 1}', '{"a": {}, "n": 1}'),  # sglang#35564: `{}` and numbers, one character at a time
        ('{"n": 10}', '{"n": 10}'),  # vllm#13622
        ("{}", "{}"),  # vllm#28806
        ('{"command": "mkdir test/{a,b"}', '{"command": "mkdir test/{a,b"}'),  # vllm#21544: a brace in a string
        ('{"id": 1234567890123456789}', '{"id": 1234567890123456789}'),  # exact: it is not parsed
        ('"{\\"a\\": 1}"', '{"a": 1}'),  # encoded twice
        ("null", "{}"),
    ],
)
def test_arguments_pass_through(text: str, json: str) -> None:
    """As the model wrote them, to the last digit."""
    answer = parse_in_any_cut(HERMES, f'<tool_call>\n{{"name": "f", "arguments": {text}}}\n</tool_call>')

    assert answer.calls == (("f", json),)


def test_two_whole_calls_in_one_piece() -> None:
    """sglang#37634, vllm#37070: a step of speculation brings more than one."""
    text = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>{"name": "g", "arguments": {}}'

    assert parse(HERMES, ["Hm.", text]).calls == (("f", '{"a": 1}'), ("g", "{}"))


def test_both_forms_of_mistral() -> None:
    """vllm#20028: a model with the old template answers in the new form."""
    for name in ("mistral_args", "mistral_json"):
        for text in (
            '[{"name": "f", "arguments": {"n": 1}}]',
            'f{"n": 1}',
            'f[ARGS]{"n": 1}',
            'f[CALL_ID]a[ARGS]{"n": 1}',
        ):
            assert parse_in_any_cut(FORMATS[name], f"[TOOL_CALLS]{text}").calls == (("f", '{"n": 1}'),)


def test_a_bracket_in_reasoning() -> None:
    """llama.cpp#14060: it is not the end of anything."""
    answer = parse_in_any_cut(HERMES, "<think>a < b </thin </think>\n\nYes.")

    assert (answer.reasoning, answer.content) == ("a < b </thin", "Yes.")


@pytest.mark.parametrize("text", ["Use functional code.", "The function=list", ">>>", "a <tool_", "<tool_call"])
def test_markers_within_words(text: str) -> None:
    """llama.cpp#12196 and more: text that begins like a marker is text."""
    for format in (HERMES, QWEN_CODER, GLM, LLAMA):
        assert parse_in_any_cut(format, text).content == text


@pytest.mark.parametrize(
    "text",
    [
        "Write `<tool_call>` first, then JSON.",
        "Write <tool_call> and {a, b} and </tool_call>.",
        '<tool_call>\n{"key": "no name"}\n</tool_call>',
        "The tags are <tool_call>, <function=NAME and <arg_key>.",
    ],
)
def test_prose_that_mentions_a_marker(text: str) -> None:
    """vllm#22975, club-3090#72: it goes out as text, and soon."""
    for format in (HERMES, QWEN_CODER, GLM):
        assert parse_in_any_cut(format, text).content == text

    for format in FORMATS.values():
        for marker in format.starts if not (format.channels or format.implied) else ():
            prose = f"Write {marker} first of all"
            assert fold(OutputParser(format).feed(prose)).content == prose, format.name


def test_an_end_tag_in_a_raw_argument() -> None:
    """vllm#44060: it ends the argument only where what follows can follow it."""
    page = "<function=f>\n<parameter=a>\n1\n</parameter>\nis how <b>one</b> </function> writes it"
    answer = parse_in_any_cut(QWEN_CODER, qwen("write_file", parameter("text", page), parameter("path", "p")))

    assert arguments_of(answer) == {"text": page, "path": "p"}


def test_a_misspelled_end_tag() -> None:
    """llama.cpp#28612: it swallows neither the call nor what follows."""
    text = "<tool_call>\n<function=write_file>\n<parameter=path>\nx</paramter>\n</function>\n</tool_call>\n"
    answer = parse_in_any_cut(QWEN_CODER, text + qwen("get_time"))

    assert answer.parsed_calls == [("write_file", {"path": "x</paramter>"}), ("get_time", {})]


def test_a_missing_value_tag() -> None:
    """vllm#49248: GLM leaves it out at times, and means the value all the same."""
    answer = parse_in_any_cut(GLM, "<tool_call>get_weather\n<arg_key>city</arg_key>\nBern</arg_value>\n</tool_call>")

    assert arguments_of(answer) == {"city": "\nBern"}


def test_harmony_arguments_that_are_no_json() -> None:
    """ollama#11704: they go to the client as they are, not as an error's text."""
    answer = parse_in_any_cut(HARMONY, "<|channel|>commentary to=functions.run<|message|>print('hi')<|call|>")

    assert answer.calls == (("run", "print('hi')"),)


def test_a_call_without_the_end_of_reasoning() -> None:
    """llamadart#402, sglang#17551: not all of it is reasoning. A call of an unknown tool is a thought."""
    call = '<tool_call>\n{"name": "%s", "arguments": {}}\n</tool_call>'
    answer = parse_in_any_cut(HERMES, "I will.\n" + call % "get_time", starts_in=ReasoningState.OPEN)
    assert (answer.reasoning, answer.calls) == ("I will.", (("get_time", "{}"),))

    thought = "I could " + call % "fly"
    answer = parse_in_any_cut(HERMES, thought + "</think>No.", starts_in=ReasoningState.OPEN)
    assert (answer.reasoning, answer.content, answer.calls) == (thought, "No.", ())


def test_a_call_that_is_a_thought() -> None:
    """Reasoning cites calls. In most families one is a call only if nothing closes the reasoning behind it."""
    for name in ("hermes", "lfm2", "mistral_args", "apertus", "deepseek_v31", "seed"):
        format = FORMATS[name]
        if format.call_ends_reasoning:
            continue
        call, (opens, closes) = calling(format, ("get_time", {})), format.reasoning
        answer = parse_in_any_cut(format, f"{opens}Maybe {call}, hm.{closes}{call}")
        assert answer == Answer(f"Maybe {call}, hm.", "", (("get_time", "{}"),))


def test_reasoning_that_mentions_a_marker_streams_on() -> None:
    """Only what may be a call has to wait."""
    parser = OutputParser(HERMES, ReasoningState.OPEN, tools=Tools(TOOLS))

    assert fold(parser.feed("I write <tool_call> and then JSON")).reasoning == "I write <tool_call> and then JSON"


def test_markers_that_stand_about() -> None:
    """Gemma 4 opens empty thoughts behind its answer; Kimi K3 answers where its reasoning is open."""
    answer = parse_in_any_cut(FORMATS["gemma4"], "Hello!<|channel>thought\n<channel|><channel|>")
    assert (answer.reasoning, answer.content) == ("", "Hello!")

    text = "<|open|>response<|sep|>Hello!<|close|>response<|sep|><|close|>message<|sep|>"
    answer = parse_in_any_cut(FORMATS["kimi_k3"], text, starts_in=ReasoningState.OPEN)
    assert (answer.reasoning, answer.content) == ("", "Hello!")


def test_reasoning_that_is_opened_twice() -> None:
    """By the prompt and by the model: once is enough."""
    answer = parse_in_any_cut(HERMES, "\n<think>\nHm.</think>Yes.", starts_in=ReasoningState.OPEN)

    assert (answer.reasoning, answer.content) == ("Hm.", "Yes.")


def test_thinking_that_the_prompt_closed() -> None:
    """vllm#19222: then nothing is reasoning; a stray end is dropped."""
    for text in ("Hello.", "</think>\n\nHello."):
        answer = parse_in_any_cut(HERMES, text, starts_in=ReasoningState.CLOSED)
        assert (answer.reasoning, answer.content) == ("", "Hello.")


def test_the_names_of_types_come_from_the_schema() -> None:
    """sglang#35564: a number stays a number, and the text "1" a text; Python's literals are taken too."""
    schema = tool(
        "f",
        s="string",
        n="integer",
        x={"anyOf": [{"type": "string"}, {"type": "null"}]},
        y={"type": ["number", "null"]},
        b="boolean",
        o={"$ref": "#/$defs/o"},
    )
    schema["function"]["parameters"]["$defs"] = {"o": {"type": "object"}}
    values = {"s": "1", "n": "1", "x": "1", "y": "null", "b": "True", "o": "{'a': [None]}", "new": "2"}
    text = qwen("f", *(parameter(key, value) for key, value in values.items()))

    assert arguments_of(parse_in_any_cut(QWEN_CODER, text, tools=[schema])) == {
        "s": "1",
        "n": 1,
        "x": "1",
        "y": None,
        "b": True,
        "o": {"a": [None]},
        "new": 2,
    }


def test_arguments_before_the_name() -> None:
    """ollama#11505: they are held until the name is there."""
    text = '<|tool_call|>[{"arguments": {"a": "}"}, "name": "f"}]'

    assert parse_in_any_cut(FORMATS["granite3"], text).calls == (("f", '{"a": "}"}'),)


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"name": "get_time", "arguments": {}}\n```',
        '{"name": "get_time", "arguments": {}}',
        '\n[{"name": "get_time", "parameters": {}}]',
        '{"type": "function", "function": {"name": "get_time", "arguments": {}}}',
    ],
)
def test_a_call_without_its_marker(text: str) -> None:
    """vllm#32926: Qwen2.5-Coder writes bare JSON. Of a known tool, as the whole answer, it is a call."""
    assert parse_in_any_cut(HERMES, text).calls == (("get_time", "{}"),)
    assert parse_in_any_cut(HERMES, text, tools=[]).content == text
    assert not parse_in_any_cut(HERMES, "So: " + text).calls


@pytest.mark.parametrize(
    "text", ['{"name": "get_time", "age": 3}', '{"name": "Bob"}', '{"city": "Bern"}', "[1, 2]", "{"]
)
def test_json_that_calls_nothing(text: str) -> None:
    """An answer in JSON is an answer."""
    for format in (HERMES, LLAMA):
        assert parse_in_any_cut(format, text).content == text


def test_markers_that_are_tokens_count_as_tokens_only() -> None:
    """Spelled out they are text: a model may speak of them."""
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    parser = OutputParser(HERMES, tools=Tools(TOOLS), tokens=["<tool_call>", "</tool_call>"])
    events = [*parser.feed("So: " + call), *parser.feed(" and "), *parser.feed("<tool_call>", [0])]
    events += [*parser.feed(call.removeprefix("<tool_call>")), *parser.finish()]

    assert fold(events) == Answer("", f"So: {call} and", (("get_time", "{}"),))


def test_code_for_an_interpreter() -> None:
    """Llama and Functionary write it as such, where the request has one; else it is text."""
    text = '<|python_tag|>print("hi")\nprint(f(1))<|eom_id|>'
    for name in ("llama3", "functionary_3.1"):
        answer = parse_in_any_cut(FORMATS[name], text, tools=[tool("python", source="string")])
        assert answer.parsed_calls == [("python", {"source": 'print("hi")\nprint(f(1))'})]
        assert not parse_in_any_cut(FORMATS[name], text).calls


def test_calls_have_a_limit() -> None:
    """A model that repeats itself would call for ever."""
    answer = parse(HERMES, '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>' * 200)

    assert len(answer.calls) == 128


def test_a_request_without_tools_gets_no_calls() -> None:
    """What looks like one is text."""
    text = '<think>Hm.</think><tool_call>{"name": "f", "arguments": {}}</tool_call>'
    parser = OutputParser(HERMES, has_calls=False)

    assert fold([*parser.feed(text), *parser.finish()]) == Answer("Hm.", text.removeprefix("<think>Hm.</think>"), ())


def test_the_order_of_detection() -> None:
    """`<tool_call>` is in the templates of nine other families."""
    assert find("<tool_call>").name == "hermes"
    assert find("<tool_call> <arg_key>").name == "glm"
    assert find("<tool_call><function=x><parameter=y>").name == "qwen3_coder"
    assert find("nothing of the kind").name == "generic"
