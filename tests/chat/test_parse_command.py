"""`python -m handler parse`: golden transcripts as the command prints them."""

import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from handler.chat.parse_command import run
from tests.chat.transcripts import TOOLS

A = '{"city": "Zürich"}'
# A line of a template that shows its family, and one call as the model writes it.
FAMILIES = {
    "harmony": ("<|channel|>", " to=functions.get_weather<|channel|>commentary json<|message|>" + A + "<|call|>"),
    "harmony, in the channel's header": (
        "<|channel|>",
        "<|channel|>analysis to=functions.get_weather <|constrain|>json<|message|>" + A,
    ),
    "atem": (
        "<atem:function_calls>",
        ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n'
        '<atem:parameter name="city">Zürich</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>',
    ),
    "harmony, constrained": (
        "<|channel|>",
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        "<|constrain|>json<|message|>" + A + "<|call|>",
    ),
    "harmony, constrained without a blank": (
        "<|channel|>",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>" + A + "<|call|>",
    ),
    "harmony, constrained behind the role": (
        "<|channel|>",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>" + A + "<|call|>",
    ),
    "functionary 3.2": (">>>all", "get_weather\n" + A),
    "functionary 3.1": ("<function= </function> <|python_tag|>", f"<function=get_weather>{A}</function><|eom_id|>"),
    "kimi_k2": (
        "<|tool_call_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>"
        "functions.get_weather:0<|tool_call_argument_begin|>" + A + "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "kimi_k3": (
        "<|open|> <|end_of_msg|>",
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"'
        "<|sep|>Zürich<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
    ),
    "dsml": (
        "dsml_token",
        '\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">'
        "Zürich</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    ),
    "deepseek_r1": (
        "<｜tool▁calls▁begin｜> ```json",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        + A
        + "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "deepseek_v31": (
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        + A
        + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    "solar": (
        "<|tool_call:begin|>",
        "<|tool_calls|><|tool_call:begin|>abc<|tool_call:name|>get_weather<|tool_call:args|>"
        + A
        + "<|tool_call:end|><|calls|>",
    ),
    "hy": (
        "<arg_key <tool_sep",
        "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city"
        "</arg_key:opensource>\n<arg_value:opensource>Zürich</arg_value:opensource>\n</tool_call:opensource>\n"
        "</tool_calls:opensource>",
    ),
    "glm 4.6": (
        "<arg_key>",
        "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n</tool_call>",
    ),
    "glm 4.7": ("<arg_key>", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Zürich</arg_value></tool_call>"),
    "gemma4": ("<|tool_call>call:", '<|tool_call>call:get_weather{city:<|"|>Zürich<|"|>}<tool_call|>'),
    "functiongemma": (
        "<start_function_call>",
        "<start_function_call>call:get_weather{city:<escape>Zürich<escape>}<end_function_call>",
    ),
    "minimax_m3": (
        "]<]minimax[>[",
        "]<]minimax[>[<tool_call>\n"
        ']<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Zürich]<]minimax[>[</city>'
        "]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>",
    ),
    "minimax_m2": (
        "minimax:tool_call",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Zürich</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
    ),
    "minicpm5": (
        '<function name=" <param name="',
        '<function name="get_weather"><param name="city"><![CDATA[Zürich]]></param></function>',
    ),
    "seed": (
        "<seed:tool_call>",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Zürich</parameter>\n</function>\n</seed:tool_call>",
    ),
    "qwen3_coder": (
        "<function= <parameter=",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n</function>\n</tool_call>",
    ),
    "qwen3_coder, without the outer tag": (
        "<function= <parameter=",
        "<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n</function>",
    ),
    "cohere": (
        "<|START_ACTION|>",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": '
        + A
        + "}\n]<|END_ACTION|>",
    ),
    "mistral v11": ("[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]" + A + "</s>"),
    "mistral v13": ("[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]get_weather[ARGS]" + A),
    "mistral v3": ("[TOOL_CALLS]", '[TOOL_CALLS][{"name": "get_weather", "arguments": ' + A + ', "id": "abcdefghi"}]'),
    "lfm2": ("<|tool_call_start|>", "<|tool_call_start|>[get_weather(city='Zürich')]<|tool_call_end|>"),
    "apertus": ("<|tools_prefix|>", '<|tools_prefix|>[{"get_weather": ' + A + "}]<|tools_suffix|>"),
    "nemotron_v2": ("<TOOLCALL>", '<TOOLCALL>[{"name": "get_weather", "arguments": ' + A + "}]</TOOLCALL>"),
    "apriel": (
        "<tool_calls> [BEGIN FINAL RESPONSE]",
        '<tool_calls>[{"name": "get_weather", "arguments": ' + A + "}]</tool_calls>",
    ),
    "minimax_m1": ("<tool_calls>", '<tool_calls>\n{"name": "get_weather", "arguments": ' + A + "}\n</tool_calls>"),
    "gigachat 3.1": ("<|function_call|>", '<|function_call|>{"name": "get_weather", "arguments": ' + A + "}"),
    "gigachat 3": (
        "<|role_sep|>",
        '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", "arguments": ' + A + "}",
    ),
    "granite3": ("<|tool_call|>", '<|tool_call|>[{"name": "get_weather", "arguments": ' + A + "}]"),
    "phi-4-mini": ("<|tool_call|>", '<|tool_call|>[{"name": "get_weather", "arguments": ' + A + "}]<|/tool_call|>"),
    "hermes": ("<tool_call>", '<tool_call>\n{"name": "get_weather", "arguments": ' + A + "}\n</tool_call><|im_end|>"),
    "firefunction": ("functools[", ' functools[{"name": "get_weather", "arguments": ' + A + "}]"),
    "llama3": ('"parameters": <|start_header_id|>', '{"name": "get_weather", "parameters": ' + A + "}"),
    "llama3, its own tools": (
        '"parameters": <|start_header_id|>',
        '<|python_tag|>get_weather.call(city="Zürich")<|eom_id|>',
    ),
    "generic, all calls under a key": ("", '{"tool_calls": [{"name": "get_weather", "arguments": ' + A + "}]}"),
    "generic": ("", '{"tool_call": {"name": "get_weather", "arguments": ' + A + "}}"),
}
TEMPLATE = "{# %s <|im_end|> </s> #}{%% for m in messages %%}{{ m.role }}: {{ m.content }}\n{%% endfor %%}"


class Printed(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


class Command:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def file(self, name: str, content: object) -> str:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def __call__(self, text: str, *argv: str) -> Printed:
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        self._monkeypatch.setattr(sys, "stdin", stdin)
        status = run(list(argv))
        return Printed(status, *self._capsys.readouterr())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(("sign", "text"), FAMILIES.values(), ids=FAMILIES)
def test_every_family(sign: str, text: str, command: Command) -> None:
    """Found by the template's words; whole, and one and seven characters at a time."""
    options = ["--template", command.file("template.jinja", TEMPLATE % sign), "--tools", command.file("tools", TOOLS)]
    printed = [command(text, *options, *chunk) for chunk in ((), ("--chunk", "1"), ("--chunk", "7"))]

    assert printed[0].answer == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_000000000000000000000000",
                "type": "function",
                "function": {"name": "get_weather", "arguments": A},
            }
        ],
        "finish_reason": "tool_calls",
    }
    assert printed[1:] == printed[:1] * 2


HARMONY_ANSWERS = {
    "<|channel|>final <|constrain|>json<|message|>{}": ("", "{}"),
    "<|channel|>final<|constrain|>json<|message|>{}<|return|>": ("", "{}"),
    "<|channel|>analysis<|constrain|>text<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.": (
        "Hm.",
        "Yes.",
    ),
}


@pytest.mark.parametrize(("text", "answer"), HARMONY_ANSWERS.items())
def test_a_constraint_in_a_header(text: str, answer: tuple[str, str], command: Command) -> None:
    """Says nothing about whose the message is."""
    template = command.file("template.jinja", TEMPLATE % "<|channel|>")
    for chunk in ((), ("--chunk", "1"), ("--chunk", "7")):
        printed = command(text, "--template", template, *chunk).answer
        assert (printed.get("reasoning_content", ""), printed["content"]) == answer


GENERIC_ANSWERS = {
    r'{"response": "Say \"hi\"\n\u00fc\ud83d\ude42\ud83d!"}': 'Say "hi"\nü🙂?!',
    ' {"response" : "It rains." , "why": {"a": "}"}}\n': "It rains.",
    '{"response": {"rain": [1, 2]}}': '{"rain": [1, 2]}',
    '{"response": 3}': "3",
    '{"response": "It ra': "It ra",
    '{"response": ': '{"response": ',
    '{"responses": "x"}': '{"responses": "x"}',
    '{"a": 1, "response": "x"}': '{"a": 1, "response": "x"}',
    '"response"': '"response"',
}


@pytest.mark.parametrize(("text", "content"), GENERIC_ANSWERS.items())
def test_an_answer_in_an_object(text: str, content: str, command: Command) -> None:
    """As models write it that were told to choose between a call and a response, where their template shows neither."""
    options = ["--template", command.file("template.jinja", TEMPLATE % ""), "--tools", command.file("tools", TOOLS)]
    for chunk in ((), ("--chunk", "1"), ("--chunk", "7")):
        answer = command(text, *options, *chunk).answer
        assert (answer["content"], answer["finish_reason"]) == (content, "stop")


def test_an_object_that_was_asked_for(command: Command) -> None:
    """Without tools, with a schema, and in families that have a way to call, it is the answer itself."""
    text = '{"response": "It rains."}'
    generic = ["--template", command.file("template.jinja", TEMPLATE % "")]
    tools = ["--tools", command.file("tools", TOOLS)]
    request = {"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}}
    hermes = ["--template", command.file("hermes.jinja", TEMPLATE % "<tool_call>")]
    for options in (generic, [*generic, *tools, "--request", command.file("request", request)], [*hermes, *tools]):
        assert command(text, *options).answer["content"] == text


M3 = "]<]minimax[>["
UNION = {
    "anyOf": [
        {"type": "object", "properties": {"zip": {"type": "string"}}},
        {"$ref": "#/$defs/place"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "null"},
    ]
}
PLACE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "at": {"type": ["array", "null"], "items": {"type": "number"}}},
}
UNIONS = {
    f"{M3}<zip>8001{M3}</zip>": {"zip": "8001"},
    f"{M3}<name>12{M3}</name>{M3}<at>{M3}<item>1{M3}</item>{M3}<item>2.5{M3}</item>{M3}</at>": {
        "name": "12",
        "at": [1, 2.5],
    },
    f"{M3}<item>1{M3}</item>{M3}<item>b{M3}</item>": ["1", "b"],
    "null": None,
    '{"zip": "8001"}': {"zip": "8001"},
}


@pytest.mark.parametrize(("value", "parsed"), UNIONS.items())
def test_unions_of_tags(value: str, parsed: object, command: Command) -> None:
    """MiniMax M3 writes nested values as tags: what is in them has the types of the union's member that it fits."""
    parameters = {"type": "object", "properties": {"where": UNION}, "$defs": {"place": PLACE}}
    tools = [{"type": "function", "function": {"name": "go", "parameters": parameters}}]
    text = f'{M3}<tool_call>\n{M3}<invoke name="go">{M3}<where>{value}{M3}</where>{M3}</invoke>\n{M3}</tool_call>'
    options = ["--template", command.file("template.jinja", TEMPLATE % M3), "--tools", command.file("tools", tools)]
    for chunk in ((), ("--chunk", "1"), ("--chunk", "7")):
        [call] = command(text, *options, *chunk).answer["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"where": parsed}


def test_the_reasons_to_finish(command: Command) -> None:
    """`length` where a call is cut, `stop` where a marker begins none."""
    template = command.file("template.jinja", TEMPLATE % "<tool_call>")
    cut = command('Hm. <tool_call>{"name": "f", "arguments": {"a', "--template", template).answer
    assert (cut["finish_reason"], cut["content"]) == ("length", "Hm.")
    assert cut["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a'}

    text = command("Hm. <tool_call>{oh", "--template", template).answer
    assert text == {"role": "assistant", "content": "Hm. <tool_call>{oh", "finish_reason": "stop"}


def test_a_request_says_whether_thinking_is_open(command: Command) -> None:
    """By the end of its prompt, which its variables change."""
    source = TEMPLATE % "" + "{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}"
    template = command.file("template.jinja", source)
    for effort, answer in (("low", {"reasoning_content": "A", "content": ""}), ("none", {"content": "A"})):
        body = {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": effort}
        printed = command("A", "--template", template, "--request", command.file("request", body))
        assert printed.answer == {"role": "assistant", "finish_reason": "stop", **answer}


def test_a_request_that_wants_no_calls(command: Command) -> None:
    """What looks like one is text."""
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    body = {"messages": [], "tools": TOOLS, "tool_choice": "none"}
    options = ["--template", command.file("t", TEMPLATE % "<tool_call>"), "--request", command.file("r", body)]

    assert command(text, *options).answer["content"] == text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "--template"),
        ({"template": None}, "cannot be read"),
        ({"template": "{% if %}"}, "does not compile"),
        ({"template": "", "tools": "["}, "is no JSON"),
        ({"template": "", "tools": {}}, "must be a list of tools"),
        ({"template": "", "tools": [{"type": "function"}]}, "must be a list of tools"),
        ({"template": "", "tools": [{"type": "function", "function": {"name": ""}}]}, "must be a list of tools"),
        ({"template": "", "request": []}, "must hold a JSON object"),
        ({"template": "", "request": {}}, "'messages' must be a list"),
        ({"template": "", "request": {"messages": [], "tools": [1]}}, "'tools' must be a list of tools"),
        ({"template": "{{ raise_exception('No.') }}", "request": {"messages": []}}, "refuses"),
        ({"template": "", "request": {"messages": [], "reasoning_effort": "much"}}, "must be one of"),
        ({"template": "", "request": {"messages": [], "chat_template_kwargs": {"thinking": "false"}}}, "true or false"),
    ],
)
def test_what_cannot_be_used(files: dict[str, Any], words: str, command: Command) -> None:
    """One line on stderr, nothing on stdout, and exit status 2."""
    options = [
        word
        for name, content in files.items()
        for word in (f"--{name}", str(command.folder / "none") if content is None else command.file(name, content))
    ]
    printed = command("Hello", *options)

    assert (printed.status, printed.out) == (2, "")
    assert words in printed.err
    assert printed.err.count("\n") == 1
