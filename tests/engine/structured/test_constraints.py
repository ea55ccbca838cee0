"""Constraints of every kind over a vocabulary of bytes, and what of a JSON schema is let go, dropped or refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from handler.engine.constraint import Constraint, ConstraintKind
from handler.engine.structured.grammar import GrammarCompiler
from handler.engine.structured.json_schema import prepare
from handler.errors import SchemaError
from tests.engine.fakes import END, ByteVocabulary

GBNF = 'root ::= greeting " " name\ngreeting ::= "hello" | "bye"\nname ::= [a-z]+'


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(ByteVocabulary(), max_seconds=2.0)
    yield compiler
    compiler.close()


def follows(compiler: GrammarCompiler, constraint: Constraint, text: str) -> bool:
    """Whether the text is a whole answer under the constraint."""
    matcher = compiler.compile(constraint).matcher()
    return all(matcher.accept(byte) for byte in text.encode()) and (matcher.is_complete or matcher.accept(END))


def schema(strict: bool = False, **keywords: Any) -> Constraint:
    return Constraint("schema", json.dumps(keywords), strict)


@pytest.mark.parametrize(
    ("kind", "text", "right", "wrong"),
    [
        ("regex", "[0-9]{3}", ["123"], ["12", "1234", "abc"]),
        ("regex", "(yes|no)", ["yes", "no"], ["yesno", ""]),
        ("choice", '["yes", "no", "a \\"b\\"\\n", "é"]', ["yes", 'a "b"\n', "é"], ["maybe", "ye"]),
        ("grammar", GBNF, ["hello bob", "bye x"], ["hello ", "hi bob", "hello Bob"]),
        ("grammar", 'start: "a" | "b"', ["a"], ["c"]),
        ("lark", 'start: /[ab]+/ "!"', ["aba!"], ["aba"]),
    ],
)
def test_kinds(compiler: GrammarCompiler, kind: ConstraintKind, text: str, right: list[str], wrong: list[str]) -> None:
    """What follows it is accepted to the end, all else is not."""
    constraint = Constraint(kind, text)
    assert all(follows(compiler, constraint, answer) for answer in right)
    assert not any(follows(compiler, constraint, answer) for answer in wrong)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "[0-9", "the regular expression: "),
        ("regex", "(?=a)b", "the regular expression: "),
        ("grammar", 'root ::= "a', "the grammar: "),
        ("grammar", "root ::= missing", "the grammar: "),
        ("grammar", "", "the grammar: "),
        ("lark", "start: nothing", "the grammar: "),
        ("regex", "x" * 200_000, "it has 200000 characters"),
    ],
)
def test_what_is_no_constraint(compiler: GrammarCompiler, kind: ConstraintKind, text: str, message: str) -> None:
    """It never fails open: the reason is said in one short line."""
    with pytest.raises(SchemaError) as caught:
        compiler.compile(Constraint(kind, text))
    assert message in str(caught.value)
    assert caught.value.code == "invalid_constraint"
    assert "\n" not in str(caught.value)


# What applications of today write and llguidance does not enforce.
LET_GO: dict[str, tuple[dict[str, Any], str]] = {
    "not": ({"type": "string", "not": {"const": "x"}}, '"x"'),
    "if": ({"type": "integer", "if": {"minimum": 5}, "then": {"multipleOf": 2}}, "7"),
    "uniqueItems": ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 1]"),
    "contains": ({"type": "array", "items": {"type": "integer"}, "contains": {"const": 1}}, "[2]"),
    "oneOf with a reference": (
        {"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": "array", "maxItems": 1}}},
        "null",
    ),
    "bounds of int64": ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "5"),
    "look-ahead": ({"type": "string", "pattern": "^(?=a)b"}, '"x"'),
    "back-reference": ({"type": "string", "pattern": r"^(a|b)\1$"}, '"x"'),
    "dependentRequired": ({"type": "object", "properties": {}, "dependentRequired": {"a": ["b"]}}, "{}"),
}


@pytest.mark.parametrize(("keywords", "answer"), LET_GO.values(), ids=LET_GO)
def test_what_cannot_be_enforced_is_let_go(compiler: GrammarCompiler, keywords: dict[str, Any], answer: str) -> None:
    """Unless the schema is strict: then it is refused, in words."""
    assert follows(compiler, schema(**keywords), answer)
    with pytest.raises(SchemaError, match="cannot follow the JSON schema"):
        compiler.compile(schema(True, **keywords))


@pytest.mark.parametrize(
    "keywords",
    [
        {"type": "string", "format": "uuid4"},
        {"type": "string", "format": "binary"},
        {"type": "integer", "format": "int32"},
        {"type": "array", "uniqueItems": False},
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"format": {"type": "string", "format": "path"}}},
    ],
)
def test_what_constrains_nothing_is_never_refused(compiler: GrammarCompiler, keywords: dict[str, Any]) -> None:
    """Pydantic and zod write it into every schema."""
    assert compiler.compile(schema(True, **keywords))
    assert compiler.compile(schema(False, **keywords))


def test_known_formats_are_enforced(compiler: GrammarCompiler) -> None:
    """Only unknown ones are annotations."""
    assert not follows(compiler, schema(type="string", format="date"), '"soon"')
    assert follows(compiler, schema(type="string", format="date"), '"2026-11-30"')


@pytest.mark.parametrize("value", [2**53 + 1, 1234567890123456789, -(2**60), {"a": [2**60]}])
def test_numbers_that_would_not_come_out(compiler: GrammarCompiler, value: Any) -> None:
    """Another number than the one that was asked for is worse than none; 2^53 itself is exact."""
    for keywords in ({"const": value}, {"enum": [1, value]}, {"properties": {"id": {"const": value}}}):
        with pytest.raises(SchemaError, match="beyond 2\\^53"):
            compiler.compile(schema(**keywords))
    assert follows(compiler, schema(const=2**53), str(2**53))


def test_a_clients_options_for_llguidance_are_stripped() -> None:
    """They could switch refusals off, and the bound on whitespace. A property of that name is a property."""
    given = {"x-guidance": {"lenient": True}, "properties": {"x-guidance": {"type": "string", "x-guidance": {}}}}
    assert json.loads(prepare(json.dumps(given), strict=True)) == {"properties": {"x-guidance": {"type": "string"}}}


def test_the_order_of_properties_is_kept() -> None:
    """It is that of the answer."""
    text = '{"properties":{"z":{"type":"null"},"a":{"type":"null"}},"required":["z"]}'
    assert prepare(text, strict=True) == text


def test_a_known_constraint_is_there_at_once(compiler: GrammarCompiler) -> None:
    """Applications repeat theirs; another strictness is another constraint."""
    compiler.compile(schema(type="integer", maximum=77))
    assert compiler.known(schema(type="integer", maximum=77)) is not None
    assert compiler.known(schema(True, type="integer", maximum=77)) is None
