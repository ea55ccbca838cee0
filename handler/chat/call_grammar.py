"""The grammar of an answer that must call tools, in the family's own form: Lark, as llguidance reads it.

Which markers are tokens is the model's affair, not the format's: `CallGrammar.define` is told, and writes them by id.
The frame around arguments is literal, with the blanks that the models write themselves. Arguments in tags or in code
come in any order where there are few, as models write them that saw examples in another one; in the order of the schema
where there are many, or the tool is strict. Those in JSON come as llguidance has them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from handler.chat.formats.format import TOKENS, Format
from handler.chat.formats.layouts import Layout
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import alternatives, types_of

WHITESPACE = r" |\n[ \t]{0,32}"  # between JSON's tokens: unbounded, models that lose their way write nothing else
BEHIND_THOUGHTS = r"/[ \n]{0,4}/"  # bounded for the same reason; models write two newlines
TEXT = r"/(.|\n)*/"
MAX_ANY_ORDER = 5  # arguments that may come in any order: there is a rule for each set of them
PLACES = re.compile(r"(\{(?:name|arguments|index|id|key|value|type|string)\})")
PATTERNS = {"{index}": "/[0-9]+/", "{id}": "/[A-Za-z0-9_.:-]+/"}
BARE_CALL = '{"name"'  # how a call begins that no marker announces
# How a parser's bare calls begin, in whichever order their fields come.
BARE_OBJECT = r'\s*(```(json)?\s*)?\[?\s*\{\s*"?(name|type|function|tool_calls?|arguments|parameters)"?\s*:'
UNIONS = frozenset(("$ref", "anyOf", "oneOf"))  # of whose members a value is one
LEFT_OUT = {"harmony": "<|call|>"}  # an end of generation: the engine stops where the grammar ends

TokenId = Callable[[str], int | None]


class GrammarTool(NamedTuple):
    """`parameters` is a JSON schema. Of a tool that is not strict, keywords that cannot be followed are let go."""

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False


class CallGrammar(NamedTuple):
    """`lark` refers to rules that it does not define: a marker each, and the text up to a literal each."""

    lark: str
    markers: Mapping[str, str]  # by rule
    untils: Mapping[str, tuple[str, ...]]  # by rule: a literal in pieces, each of them a marker or none
    announcing: str = ""  # the marker that free text ends at, where calls stand in text
    strict_markers: frozenset[str] = frozenset()  # those that a parser reads as their token alone, if they are one

    def define(self, token_id: TokenId) -> str:
        """The whole grammar. `token_id` gives the id of a text that is one token of the model.

        A marker that is a token is written by id. The end of a call may be spelled instead, as models do at times.
        Text that ends at a token is free up to it; before a literal it is lazy, which costs more a step.
        """
        strict = self.strict_markers
        rules = [f"{rule}: {_marker(text, token_id, strict)}" for rule, text in self.markers.items()]
        rules += [_until(rule, pieces, token_id, strict) for rule, pieces in self.untils.items()]
        if self.announcing:
            rules.append(_free(self.announcing, token_id))
        return "\n".join((self.lark, *rules)) + "\n"


def call_grammar(
    format: Format,
    tools: Sequence[GrammarTool],
    *,
    starts_in: ReasoningState,
    is_required: bool = True,
    is_parallel: bool = True,
    response_schema: Mapping[str, Any] | None = None,
    response_is_strict: bool = True,
) -> CallGrammar:
    """One call of these tools or more, after reasoning if there is any.

    `response_schema` allows an answer that follows it instead. Without `is_required` the calls stand in free text, if
    there are any. Where no marker announces a family's calls, those that are JSON are told by how an answer begins;
    others cannot be told from text, and nothing is held to.
    """
    grammar = _Grammar(format, is_in_text=not is_required)
    is_parallel = is_parallel and format.has_parallel_calls
    body = (
        grammar.calls(tools, is_parallel=is_parallel)
        if is_required
        else grammar.text_with_calls(tools, is_parallel=is_parallel)
    )
    if response_schema is not None:
        body = f"({body} | {grammar.message(starts_in)} {_json(response_schema, is_strict=response_is_strict)})"
    grammar.rules.insert(0, f"start: {grammar.thinking(starts_in)} {body}")
    return grammar.finish()


def preface(format: Format, *, starts_in: ReasoningState) -> CallGrammar | None:
    """What may or must stand before the content of an answer, which is `@answer`; None if nothing may."""
    grammar = _Grammar(format, is_in_text=False)
    before = f"{grammar.thinking(starts_in)} {grammar.message(starts_in)}".strip()
    if not before:
        return None
    grammar.rules.insert(0, f"start: {before} @answer")
    return grammar.finish()


class _Grammar:
    """The rules of one grammar while they are written."""

    def __init__(self, format: Format, *, is_in_text: bool) -> None:
        self.rules: list[str] = []
        self.markers: dict[str, str] = {}
        self.untils: dict[str, tuple[str, ...]] = {}
        self._format = format
        self._tagged: dict[str, str] = {}  # rules of values made of tags, by what they are of
        self.announcing = ""
        self._layout = format.layout
        if is_in_text:
            self.announcing, self._layout = _opened(format.layout)

    def finish(self) -> CallGrammar:
        rules = "\n".join(self.rules)
        return CallGrammar(rules, self.markers, self.untils, self.announcing, self._format.announcing)

    def calls(self, tools: Sequence[GrammarTool], *, is_parallel: bool) -> str:
        call = self._rule("call", " | ".join(self._call(tool) for tool in tools))
        layout = self._layout
        more = f"({self.literal(layout.between)} {call})*" if is_parallel else ""
        after = self.literal(layout.after)
        return self._rule("calls", f"{self.literal(layout.before)} {call} {more} {after}")

    def text_with_calls(self, tools: Sequence[GrammarTool], *, is_parallel: bool) -> str:
        """Free text in which calls may stand, each behind the marker that announces it; one if not in parallel.

        Calls that are bare JSON are the whole answer: what begins like one must be one, and other text is free.
        """
        if not self.announcing and self._layout.call.startswith(BARE_CALL):
            self.rules += ["plain: PLAIN", f"PLAIN: {TEXT} & ~/{BARE_OBJECT}(.|\\n)*/"]
            return f"({self.calls(tools, is_parallel=is_parallel)} | plain)"
        if not self.announcing:
            return TEXT
        is_section = is_parallel and bool(self._layout.after)  # of several calls; others have a marker each
        calls = self.calls(tools, is_parallel=is_section)
        return f"({self.until(self.announcing)} {calls}){'*' if is_parallel else '?'} free"

    def thinking(self, starts_in: ReasoningState) -> str:
        pair = self._format.reasoning
        if starts_in is ReasoningState.CLOSED:
            return ""
        channels = self._format.channels
        behind = self.literal(f"{channels.starts}assistant") if channels else BEHIND_THOUGHTS
        inside = f"{self.until(pair.closes)} {behind}"
        opened = inside if starts_in is ReasoningState.OPEN else f"({self.literal(pair.opens)} {inside})?"
        return self._rule("thinking", opened)

    def message(self, starts_in: ReasoningState) -> str:
        """The header of a message to the user, in formats that have one."""
        channels = self._format.channels
        if channels is None or not channels.channel or starts_in is ReasoningState.CLOSED:
            return ""
        return self.literal(f"{channels.channel}final{channels.body}")

    def literal(self, text: str) -> str:
        """The text as a sequence of Lark's, with a rule for each marker in it."""
        return " ".join(self._piece(piece) for piece in self._pieces(text))

    def until(self, text: str) -> str:
        """Any text, and this literal at its end."""
        pieces = self._pieces(text)
        return self._named(self.untils, "until", pieces)

    def _pieces(self, text: str) -> tuple[str, ...]:
        return tuple(piece for piece in TOKENS.split(text) if piece)

    def _piece(self, piece: str) -> str:
        return self._named(self.markers, "marker", piece) if TOKENS.fullmatch(piece) else _quote(piece)

    def _named(self, rules: dict[str, Any], kind: str, value: Any) -> str:
        name = next((name for name, known in rules.items() if known == value), f"{kind}_{len(rules)}")
        rules[name] = value
        return name

    def _rule(self, kind: str, body: str) -> str:
        name = f"{kind}_{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def _call(self, tool: GrammarTool) -> str:
        layout = self._layout.call.removesuffix(LEFT_OUT.get(self._format.name, "\0"))
        parts = []
        for part in filter(None, PLACES.split(layout)):
            if part == "{name}":
                parts.append(_quote(tool.name))
            elif part == "{arguments}":
                parts.append(self._arguments(tool))
            else:
                parts.append(PATTERNS.get(part) or self.literal(part))
        return self._rule("tool", " ".join(parts))

    def _arguments(self, tool: GrammarTool) -> str:
        if not self._layout.argument:
            return _json({"type": "object", **tool.parameters}, is_strict=tool.is_strict)
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required", ())
        names = list(properties) if isinstance(properties, Mapping) else []
        if not tool.is_strict and len(names) <= MAX_ANY_ORDER:
            written = {name: self._argument(tool, name) for name in names}
            return self._in_any_order(written, frozenset(required), frozenset(names), {}, is_first=True)
        first, more = '""', '""'  # what may come where nothing is written yet, and behind an argument
        for name in reversed(names):
            argument = self._argument(tool, name)
            after = f"{_quote(self._layout.argument_separator)} {argument} {more}"
            first = f"({argument} {more})" if name in required else f"({argument} {more} | {first})"
            more = self._rule("more", after if name in required else f"({after} | {more})")
            first = self._rule("first", first)
        return first

    def _in_any_order(
        self,
        written: Mapping[str, str],
        required: frozenset[str],
        left: frozenset[str],
        known: dict[tuple[frozenset[str], bool], str],
        *,
        is_first: bool,
    ) -> str:
        """Those arguments that are left, each once at most, and the required ones of them; a rule for each such set."""
        separator = "" if is_first else _quote(self._layout.argument_separator)
        key = (left, is_first and bool(self._layout.argument_separator))
        if key not in known:
            forms = [] if required & left else ['""']
            for name in filter(left.__contains__, written):
                rest = self._in_any_order(written, required, left - {name}, known, is_first=False)
                forms.append(f"{separator} {written[name]} {rest}")
            known[key] = self._rule("some", " | ".join(forms))
        return known[key]

    def _argument(self, tool: GrammarTool, name: str) -> str:
        schema = tool.parameters["properties"][name]
        if self._layout.nesting:
            return self._rule("argument", self._written(name, {}, lambda end: self._tags(schema, tool, end)))
        types = types_of(schema, tool.parameters)
        forms = []
        if types is None or "string" in types:
            forms.append(self._written(name, {"{type}": "string", "{string}": "true"}, self._string(schema)))
        others = (types or frozenset(("number", "boolean", "null", "array", "object"))) - {"string"}
        for kind in sorted("number" if kind == "integer" else kind for kind in others):
            words = {"{type}": kind, "{string}": "false"}
            forms.append(self._written(name, words, self._other(schema, tool, kind)))
        return self._rule("argument", " | ".join(dict.fromkeys(forms)))

    def _written(self, key: str, words: Mapping[str, str], value: Callable[[str], str]) -> str:
        """One argument in the layout's form; `value` writes the value, with what ends it."""
        words = {**words, "{key}": key}
        head, _, tail = PLACES.sub(
            lambda place: words.get(place.group(), place.group()), self._layout.argument
        ).partition("{value}")
        return f"{self.literal(head)} {value(tail)}"

    def _string(self, schema: Any) -> Callable[[str], str]:
        values = schema.get("enum") if isinstance(schema, Mapping) else None
        choices = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []

        def write(end: str) -> str:
            if self._layout.values == "raw":
                if choices:
                    return f"({' | '.join(map(_quote, choices))}) {self.literal(end)}"
                return self.until(end)
            quote = self._layout.quote
            if quote:
                body = " | ".join(map(_quote, choices))
                inside = f"({body}) {self.literal(quote)}" if choices else self.until(quote)
                return f"{self.literal(quote)} {inside} {self.literal(end)}"
            body = _json({"type": "string", **({"enum": choices} if choices else {})}, is_strict=False)
            single = " | ".join(_quote(f"'{choice}'") for choice in choices) or r"/'([^'\\\n]|\\.)*'/"
            return f"({body} | {single}) {self.literal(end)}"

        return write

    def _other(self, schema: Any, tool: GrammarTool, kind: str) -> Callable[[str], str]:
        """A value that is no string."""
        if self._layout.values == "braces" and kind in ("array", "object"):
            value = self._braces()
        else:
            definitions = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
            inner = dict(schema) if isinstance(schema, Mapping) else {}
            value = _json({**definitions, **inner, **({} if inner else {"type": kind})}, is_strict=tool.is_strict)
        return lambda end: f"{value} {self.literal(end)}"

    def _tags(self, schema: Any, tool: GrammarTool, end: str) -> str:
        """A value made of tags, and what ends it: a rule for each schema, which may refer to itself. One that may be a
        string may be any text."""
        key = json.dumps([tool.name, schema, end])
        if key not in self._tagged:
            rule = self._tagged[key] = f"tags_{len(self._tagged)}"
            types = types_of(schema, tool.parameters)
            is_text = types is None or "string" in types
            forms = [self._string(schema)(end)] if is_text else self._tagged_forms(schema, tool, end)
            self.rules.append(f"{rule}: {' | '.join(forms)}")
        return self._tagged[key]

    def _tagged_forms(self, schema: Any, tool: GrammarTool, end: str) -> list[str]:
        """One for each member of a union: tags for what its schema describes, JSON for anything else."""
        forms = []
        for member in alternatives(schema, tool.parameters):
            if UNIONS & member.keys():
                continue
            kinds = types_of(member, tool.parameters) or frozenset()
            if "object" in kinds and isinstance(properties := member.get("properties"), Mapping) and properties:
                required = member.get("required", ())
                tags = (
                    f"{self._tag(name, inner, tool)}{'' if name in required else '?'}"
                    for name, inner in properties.items()
                )
                forms.append(f"{' '.join(tags)} {self.literal(end)}")
                kinds -= {"object"}
            if "array" in kinds and isinstance(items := member.get("items"), Mapping):
                forms.append(f"{self._tag('item', items, tool)}* {self.literal(end)}")
                kinds -= {"array"}
            if kinds:
                other = {**member, "type": sorted(kinds)}
                forms.append(self._other(other, tool, "")(end))
        return forms or [self.until(end)]

    def _tag(self, name: str, schema: Any, tool: GrammarTool) -> str:
        mark = self._layout.nesting
        return f"({self.literal(f'{mark}<{name}>')} {self._tags(schema, tool, f'{mark}</{name}>')})"

    def _braces(self) -> str:
        """Lists and objects in Gemma's syntax, of any content."""
        if not any(rule.startswith("braces:") for rule in self.rules):
            quote = self._layout.quote
            scalar = _json({"type": ["number", "boolean", "null"]}, is_strict=False)
            self.rules += [
                f"braces: {self.literal(quote)} {self.until(quote)} | {scalar}"
                ' | "[" (braces ("," braces)*)? "]" | "{" (pair ("," pair)*)? "}"',
                'pair: /[^:,{}]+/ ":" braces',
            ]
        return "braces"


def _opened(layout: Layout) -> tuple[str, Layout]:
    """The marker that announces calls, and how they go on behind it; none and no change where there is none."""
    text = layout.before or layout.call
    announcing = TOKENS.search(text)
    if announcing is None or "{" in text[: announcing.start()]:
        return "", layout
    rest = text[announcing.end() :]
    opened = replace(layout, before=rest) if layout.before else replace(layout, call=rest)
    return announcing.group(), opened


def _free(announcing: str, token_id: TokenId) -> str:
    """Text without the marker: a token never stands in text."""
    if token_id(announcing) is not None:
        return f"free: {TEXT}"
    return f"free: FREE\nFREE: {TEXT} & ~/(.|\\n)*{_regex(announcing)}(.|\\n)*/"


def _regex(text: str) -> str:
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")


def _marker(text: str, token_id: TokenId, strict: frozenset[str]) -> str:
    number = token_id(text)
    if number is None:
        return _quote(text)
    return f"<[{number}]>" if text in strict else f"(<[{number}]> | {_quote(text)})"


def _until(rule: str, pieces: Sequence[str], token_id: TokenId, strict: frozenset[str]) -> str:
    """Text up to the first token in the literal; what stands before that token in it is part of the text."""
    ids = [token_id(piece) for piece in pieces]
    first = next((i for i, number in enumerate(ids) if number is not None), len(pieces))
    rest = " ".join(_marker(piece, token_id, strict) for piece in pieces[first + 1 :])
    if first < len(pieces):
        return f"{rule}: {TEXT} <[{ids[first]}]> {rest}"
    return f"{rule}[lazy]: /(.|\\n)*{_regex(''.join(pieces))}/"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json(schema: Mapping[str, Any], *, is_strict: bool) -> str:
    """A value that follows the schema. How it is followed is the worker's decision: a client's `x-guidance` goes."""
    guidance = {"whitespace_pattern": WHITESPACE, "lenient": not is_strict, "coerce_one_of": not is_strict}
    return f"%json {json.dumps({**schema, 'x-guidance': guidance})}"
