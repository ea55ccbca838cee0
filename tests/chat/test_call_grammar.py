"""Grammars of calls: what each family's model may write, by tokens and by text."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from handler.chat.call_grammar import CallGrammar, GrammarTool, call_grammar
from handler.chat.formats import FORMATS
from handler.chat.formats.format import Format
from handler.chat.reasoning import ReasoningState
from tests.chat.transcripts import TOOLS, calling, parse, thinking

FIRST_SPECIAL = 257  # behind the bytes and the end
TOOLS_OF_GRAMMAR = [GrammarTool(tool["function"]["name"], tool["function"]["parameters"]) for tool in TOOLS]
WEATHER = ("get_weather", {"city": "Zürich", "days": 3})
FILE = ("write_file", {"path": 'a "b"', "text": "c\nd </x>"})
HERMES = FORMATS["hermes"]

families = pytest.mark.parametrize("format", [pytest.param(format, id=name) for name, format in FORMATS.items()])
as_tokens = pytest.mark.parametrize("as_tokens", [False, True], ids=["text", "tokens"])


class ByteVocabulary:
    """A token for each byte, and one for each marker that is to be one."""

    eos_token_id = 256
    bos_token_id = None

    def __init__(self, markers: list[str]) -> None:
        self.ids: Mapping[str, int] = {marker: FIRST_SPECIAL + i for i, marker in enumerate(markers)}
        special = [b"\xff<eos>", *(b"\xff" + marker.encode() for marker in markers)]
        self.tokens = [bytes([byte]) for byte in range(256)] + special
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    def encode(self, text: str) -> list[int]:
        longest_first = sorted(self.ids, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if self.ids else [text]
        return [token for part in parts for token in ([self.ids[part]] if part in self.ids else part.encode())]


class Follower:
    """Says whether a grammar accepts a text as a whole answer."""

    def __init__(self, format: Format, grammar: CallGrammar, *, as_tokens: bool) -> None:
        self.vocabulary = ByteVocabulary(sorted(format.possible_tokens) if as_tokens else [])
        tokenizer = LLTokenizer(TokenizerWrapper(self.vocabulary))
        lark = grammar.define(self.vocabulary.ids.get)
        self.matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark), log_level=0)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def accepts(self, text: str) -> bool:
        matcher, tokens = self.matcher.deep_copy(), self.vocabulary.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def follower(format: Format, *, as_tokens: bool = False, **options: Any) -> Follower:
    options = {"starts_in": ReasoningState.CLOSED, **options}
    return Follower(format, call_grammar(format, TOOLS_OF_GRAMMAR, **options), as_tokens=as_tokens)


def written(format: Format, *calls: tuple[str, dict[str, Any]]) -> str:
    return calling(format, *calls).removesuffix("<|call|>")  # an end of generation


@families
@as_tokens
def test_what_a_family_writes_is_allowed(format: Format, as_tokens: bool) -> None:
    """One call, and two where the family can; nothing else is."""
    grammar = follower(format, as_tokens=as_tokens)

    assert grammar.accepts(written(format, WEATHER))
    assert grammar.accepts(written(format, FILE, ("get_time", {}))) == format.has_parallel_calls
    assert not grammar.accepts(written(format, ("no_such_tool", {})))
    assert not grammar.accepts("Hello")
    assert not grammar.accepts(written(format, WEATHER)[:-1])


@families
@as_tokens
def test_reasoning_before_the_call(format: Format, as_tokens: bool) -> None:
    """May be there where the prompt has not decided, and must end where it has opened it."""
    if format.implied:
        pytest.skip("it has no reasoning")
    text = thinking(format, "Hm < x") + written(format, WEATHER)
    undecided = follower(format, as_tokens=as_tokens, starts_in=ReasoningState.UNDECIDED)
    opened = follower(format, as_tokens=as_tokens, starts_in=ReasoningState.OPEN)

    assert undecided.accepts(text)
    assert undecided.accepts(written(format, WEATHER))
    assert opened.accepts(text.removeprefix(format.reasoning.opens))
    assert not follower(format, as_tokens=as_tokens).accepts(text)


def test_blanks_behind_thoughts_have_an_end() -> None:
    """Small models whose thoughts were closed by their budget wrote newlines until the answer was cut."""
    grammar = follower(HERMES, starts_in=ReasoningState.OPEN)
    call = written(HERMES, WEATHER)

    assert grammar.accepts(f"Hm</think>\n\n{call}")
    assert grammar.accepts(f"Hm</think>{call}")
    assert not grammar.accepts(f"Hm</think>{5 * chr(10)}{call}")


@families
def test_types_are_held_to(format: Format) -> None:
    """A number is no text."""
    wrong = written(format, ("get_weather", {"city": "x", "days": "THREE"}))

    assert not follower(format, as_tokens=True).accepts(wrong)


def test_one_call_alone() -> None:
    """The answer ends at once behind it."""
    grammar = follower(HERMES, is_parallel=False)

    assert grammar.accepts(written(HERMES, WEATHER))
    assert not grammar.accepts(written(HERMES, WEATHER, WEATHER))


def test_an_answer_by_a_schema_instead() -> None:
    """`response_format` beside tools."""
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    grammar = follower(HERMES, response_schema=schema)

    assert grammar.accepts('{"yes": true}')
    assert grammar.accepts(written(HERMES, WEATHER))
    assert not grammar.accepts('{"yes": 1}')


@as_tokens
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "kimi_k2", "mistral_args", "gemma4", "glm"])
def test_calls_within_text(name: str, as_tokens: bool) -> None:
    """Text is free, and calls in it follow their schema."""
    format = FORMATS[name]
    grammar = follower(format, as_tokens=as_tokens, is_required=False)

    assert grammar.accepts("Hello")
    assert grammar.accepts("Hm. " + written(format, WEATHER))
    assert grammar.accepts("Hm. " + written(format, WEATHER) + "\nDone.")
    assert not grammar.accepts("Hm. " + written(format, ("no_such_tool", {})))


@pytest.mark.parametrize("name", ["llama3", "generic"])
def test_calls_without_a_marker(name: str) -> None:
    """JSON that begins like a call must be one, in the family's form; any other text is free, JSON too."""
    format = FORMATS[name]
    grammar = follower(format, is_required=False)

    assert grammar.accepts(written(format, WEATHER))
    for text in (
        "Hello",
        "{",
        '{"answer": {"name": 1}}',
        '[{"city": "name"}]',
        '```json\n{"a": 1}\n```',
        'Say {"name"}',
    ):
        assert grammar.accepts(text), text
    for text in (
        written(format, ("no_such_tool", {})),
        written(format, ("get_weather", {"days": "THREE"})),
        '{"name": 1}',
        '{ name: "get_weather"}',
        '[{"name": "get_weather"}]',
        '```json\n{"arguments": {}, "name": "get_weather"}```',
        '{"type": "function", "name": "get_weather"}',
    ):
        assert not grammar.accepts(text), text


def test_text_that_cannot_be_told_from_calls() -> None:
    """Functionary's calls begin with any tool's name: then all text is free."""
    assert follower(FORMATS["functionary_3.2"], is_required=False).accepts("no_such_tool\n{}")


@families
def test_optional_and_chosen_arguments(format: Format) -> None:
    """Required ones must be there, and of an enumeration only its values."""
    parameters = {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["C", "F"]},
            "n": {"type": "integer"},
            "s": {"type": "string"},
        },
        "required": ["n"],
    }
    tools = [GrammarTool("f", parameters, is_strict=True)]
    made = call_grammar(format, tools, starts_in=ReasoningState.CLOSED)
    grammar = Follower(format, made, as_tokens=True)

    for arguments in ({"n": 1}, {"unit": "C", "n": 1}, {"n": 1, "s": "x"}, {"unit": "F", "n": 1, "s": ""}):
        text = written(format, ("f", arguments))
        assert grammar.accepts(text), text
        assert parse(format, text, tools=[{"name": "f", "parameters": parameters}]).parsed_calls == [("f", arguments)]
    for wrong in ({}, {"unit": "K", "n": 1}):
        assert not grammar.accepts(written(format, ("f", wrong)))


TAGGED = [name for name, format in FORMATS.items() if format.layout.argument]


@pytest.mark.parametrize("name", TAGGED)
def test_arguments_in_any_order(name: str) -> None:
    """Unless the tool is strict; each once, and the required ones in any case."""
    format, schema = FORMATS[name], {"type": "integer"}
    parameters = {"type": "object", "properties": dict.fromkeys("abc", schema), "required": ["a", "b"]}

    def grammar(*, is_strict: bool) -> Follower:
        tools = [GrammarTool("f", parameters, is_strict=is_strict)]
        return Follower(format, call_grammar(format, tools, starts_in=ReasoningState.CLOSED), as_tokens=True)

    any_order, in_order = grammar(is_strict=False), grammar(is_strict=True)
    for keys in ("ab", "ba", "abc", "acb", "bac", "bca", "cab", "cba"):
        text = written(format, ("f", dict.fromkeys(keys, 1)))
        assert any_order.accepts(text), text
        assert in_order.accepts(text) == (keys in ("ab", "abc"))
    for keys in ("", "a", "c", "bc"):
        assert not any_order.accepts(written(format, ("f", dict.fromkeys(keys, 1))))
    twice = written(format, ("f", {"a": 1, "b": 1, "zz": 1})).replace("zz", "a")
    assert not any_order.accepts(twice)


def test_many_arguments_come_in_the_order_of_the_schema() -> None:
    """A rule for each set of them would be too many."""
    names = "abcdefghij"
    parameters = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    format = FORMATS["qwen3_coder"]
    grammar = Follower(
        format, call_grammar(format, [GrammarTool("f", parameters)], starts_in=ReasoningState.CLOSED), as_tokens=True
    )

    assert grammar.accepts(written(format, ("f", dict.fromkeys("acj", 1))))
    assert not grammar.accepts(written(format, ("f", dict.fromkeys("ca", 1))))


TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": ["integer", "null"]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        "more": {"type": "object"},
    },
    "required": ["name"],
}
TREES = {
    "type": "object",
    "properties": {"tree": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "boolean"}, {"type": "array", "items": {}}]}},
    "required": ["tree"],
    "$defs": {"tree": TREE},
}


@as_tokens
def test_values_made_of_tags(as_tokens: bool) -> None:
    """MiniMax M3 writes lists and objects so: by the schema, which may refer to itself, and by a union's members."""
    format = FORMATS["minimax_m3"]
    made = call_grammar(format, [GrammarTool("f", TREES)], starts_in=ReasoningState.CLOSED)
    grammar = Follower(format, made, as_tokens=as_tokens)

    leaf = {"name": "12", "size": None}
    for value in (leaf, {"name": "a", "children": [leaf, {"name": "b", "size": 3}]}, True, ["x", 1.5, None]):
        text = written(format, ("f", {"tree": value}))
        assert grammar.accepts(text), text
        answer = parse(format, text, tools=[{"name": "f", "parameters": TREES}])
        assert answer.parsed_calls == [("f", {"tree": value})]
    for wrong in ({"size": 1}, {"name": "a", "size": 1.5}, {"name": "a", "new": 1}, 7):
        assert not grammar.accepts(written(format, ("f", {"tree": wrong})))


def test_a_clients_guidance_is_not_followed() -> None:
    """It could switch off what a schema asks for."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "x-guidance": {"lenient": True}}
    lark = call_grammar(HERMES, [GrammarTool("f", schema, is_strict=True)], starts_in=ReasoningState.CLOSED).lark

    assert '"lenient": false' in lark
    assert '"lenient": true' not in lark


def test_what_announces_a_call_is_not_spelled() -> None:
    """Spelled, it would be text to the parser; an end may be spelled, for models do so."""
    ids = {"<tool_call>": 7, "</tool_call>": 8}
    lark = call_grammar(HERMES, TOOLS_OF_GRAMMAR, starts_in=ReasoningState.CLOSED).define(ids.get)

    assert "<[7]>" in lark
    assert '"<tool_call>"' not in lark
    assert '(<[8]> | "</tool_call>")' in lark
