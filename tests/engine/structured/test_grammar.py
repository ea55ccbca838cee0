"""Grammars over a vocabulary of bytes: what may come next, where an answer ends, and what is refused."""

import gc
import json
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from handler.engine.constraint import Constraint
from handler.engine.structured import schema_check
from handler.engine.structured.grammar import MAX_SCHEMA_CHARS, GrammarCompiler, GrammarMatcher, with_byte_tokens
from handler.engine.structured.schema_check import SchemaCheck
from handler.engine.structured.step_masks import StepMasks
from handler.engine.structured.token_mask import TokenMask, num_words
from handler.errors import EngineError, SchemaError
from tests.engine.fakes import CONTROL, END, ByteVocabulary

SECONDS = 1.0  # that a schema may take: what is meant to be refused takes for ever, the others milliseconds
MASKS = StepMasks(ByteVocabulary.num_tokens, num_threads=2)
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "name": {"type": "string"}},
    "required": ["x", "name"],
    "additionalProperties": False,
}


def strict(schema: object) -> Constraint:
    return Constraint("schema", json.dumps(schema), strict=True)


def lenient(schema: object) -> Constraint:
    return Constraint("schema", json.dumps(schema))


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(ByteVocabulary(), max_seconds=SECONDS)
    yield compiler
    compiler.close()


@pytest.fixture
def matcher(compiler: GrammarCompiler) -> GrammarMatcher:
    return compiler.compile(strict(POINT)).matcher()


def allowed(mask: TokenMask | None) -> set[int]:
    assert mask is not None
    logits = np.zeros(ByteVocabulary.num_tokens, np.float32)
    mask.apply(logits)
    return set(np.flatnonzero(logits == 0).tolist())


def next_of(matcher: GrammarMatcher) -> set[int]:
    (mask,) = MASKS.compute([matcher])
    return allowed(mask)


def feed(matcher: GrammarMatcher, text: str) -> bool:
    return all(matcher.accept(byte) for byte in text.encode())


def test_what_may_come_next(matcher: GrammarMatcher) -> None:
    """Of an object its brace alone; later a digit or what ends a number; never a control token."""
    assert next_of(matcher) == {ord("{")}
    assert feed(matcher, '{"x": 1')
    assert next_of(matcher) == set(b"0123456789, \n")
    assert feed(matcher, ',"name":"')
    assert CONTROL not in next_of(matcher)


def test_ends_only_where_it_is_complete(compiler: GrammarCompiler, matcher: GrammarMatcher) -> None:
    """An object ends with its brace. A number may end or go on: only then are end tokens among what is allowed."""
    assert feed(matcher, '{"x":1,"name":""')
    assert END not in next_of(matcher)
    assert not matcher.is_complete
    assert feed(matcher, "}")
    assert matcher.is_complete
    number = compiler.compile(Constraint("schema", '{"type": "integer"}')).matcher()
    assert END not in next_of(number)
    assert feed(number, "12")
    assert END in next_of(number)
    assert not number.is_complete
    assert number.accept(END)
    assert number.is_complete


@pytest.mark.parametrize("text", ["héllo", "日本", "🙂"])
def test_bytes_of_a_character(matcher: GrammarMatcher, text: str) -> None:
    """A character comes byte by byte; within one, nothing else may come."""
    assert feed(matcher, '{"x":1,"name":"')
    for byte in text.encode():
        tokens = next_of(matcher)
        assert byte in tokens
        assert (ord("a") in tokens) is (byte & 0xC0 != 0x80)
        assert matcher.accept(byte)
    assert ord('"') in next_of(matcher)


def test_a_token_that_is_not_allowed(matcher: GrammarMatcher) -> None:
    """The matcher has failed, for good, and says so; a premature end is such a token too."""
    assert not matcher.accept(END)
    assert not matcher.is_complete
    assert not matcher.accept(ord("{"))
    assert next_of(matcher) == {END}
    assert not matcher.accept(END)


def test_choices_share_a_grammar_and_go_their_own_ways(compiler: GrammarCompiler) -> None:
    """What one accepts changes nothing for the others, and the next is as if first."""
    grammar = compiler.compile(strict(POINT))
    first, second = grammar.matcher(), grammar.matcher()
    assert feed(first, '{"x"')
    assert next_of(second) == next_of(grammar.matcher()) == {ord("{")}


def test_masks_of_a_step(compiler: GrammarCompiler) -> None:
    """One for each sequence that has a grammar, in their order; one that has failed leaves the others theirs."""
    grammar = compiler.compile(strict(POINT))
    begun, failed, fresh = grammar.matcher(), grammar.matcher(), grammar.matcher()
    assert feed(begun, '{"x":')
    assert not failed.accept(END)
    masks = MASKS.compute([begun, None, failed, fresh])
    assert allowed(masks[0]) == next_of(begun)
    assert masks[1] is None
    assert allowed(masks[2]) == {END}
    assert allowed(masks[3]) == {ord("{")}
    assert MASKS.compute([None, None]) == [None, None]


def test_whitespace_is_bounded(matcher: GrammarMatcher) -> None:
    """A model at a loss cannot continue with blanks for ever."""
    assert feed(matcher, "{\n" + 32 * " ")
    assert next_of(matcher) == {ord('"')}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


BAD_SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "no such type": ({"type": "strin"}, "Invalid type: strin"),
    "not supported": ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
    "contradiction": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
    "endless": ({"$ref": "#"}, "NoExtension"),
    "elsewhere": ({"$ref": "http://127.0.0.1:9/schema"}, "does not fetch"),
    "wrong pattern": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "deep": (nested(200), "recursion limit"),
    "huge": ({"description": "x" * MAX_SCHEMA_CHARS}, "at most 131072 are allowed"),
}


@pytest.mark.parametrize(("schema", "reason"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS)
def test_a_schema_that_cannot_be_followed(compiler: GrammarCompiler, schema: dict[str, Any], reason: str) -> None:
    """The error says why, in a line that is not long."""
    with pytest.raises(SchemaError) as caught:
        compiler.compile(strict(schema))
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_schema_that_would_take_for_ever(compiler: GrammarCompiler) -> None:
    """It is refused when its time is up, and the next one is compiled as ever."""
    endless = {"type": "integer", "multipleOf": 123456789, "minimum": 0, "maximum": 10**15}
    with pytest.raises(SchemaError, match="too complex"):
        compiler.compile(strict(endless))
    assert compiler.compile(strict(POINT))


def test_calls_that_would_take_for_ever_together(compiler: GrammarCompiler) -> None:
    """Each part of a grammar may be simple, and the whole is tried all the same, whatever numbers its tokens have."""
    endless = '%json {"type": "integer", "multipleOf": 123456789, "minimum": 0, "maximum": 1000000000000000}'
    part = strict({"type": "object"})
    with pytest.raises(SchemaError, match="the grammar: it is too complex"):
        compiler.compile(Constraint("lark", f"start: <[200000]> {endless}", parts=(part,)))
    with pytest.raises(SchemaError, match="the grammar: "):
        compiler.compile(Constraint("lark", "start: no_such_rule", parts=(part,)))
    assert with_byte_tokens("start: <[200000]> | <[5]>") == f"start: <[{256 + 200000 % 6}]> | <[261]>"


def test_check_that_is_closed_ends_its_process() -> None:
    """It may be closed twice, or before it began."""
    check = SchemaCheck()
    check.close()
    assert not check.reason_against("schema", '{"type": "object"}')
    process = check._process
    assert process is not None
    check.close()
    check.close()
    assert process.returncode is not None


def test_what_is_let_go_is_freed(compiler: GrammarCompiler) -> None:
    """Neither the compiler nor the grammar holds on to a sequence's matcher."""
    grammar = compiler.compile(strict(POINT))
    matcher = weakref.ref(grammar.matcher())
    MASKS.compute([grammar.matcher()])
    gc.collect()
    assert matcher() is None


@pytest.mark.parametrize("num_tokens", [31, 32, 33, 5000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_mask_leaves_what_is_allowed(num_tokens: int, share: float) -> None:
    """Few or many: their logits are as they were, and all others minus infinity."""
    rng = np.random.default_rng(2)
    wanted = rng.random(num_tokens) < share
    words = np.packbits(np.resize(wanted, 32 * num_words(num_tokens)), bitorder="little").view(np.uint32)
    logits = rng.normal(size=num_tokens).astype(np.float32)
    before = logits.copy()
    TokenMask.from_words(words, num_tokens).apply(logits)
    assert (logits[wanted] == before[wanted]).all()
    assert (logits[~wanted] == -np.inf).all()


def test_the_check_was_killed_while_it_had_nothing_to_do() -> None:
    """By a machine short of memory, say: the next schema is checked all the same, be it small or large."""
    check = SchemaCheck()
    for schema in ('{"type": "object"}', json.dumps({"enum": ["x" * 90_000]})):
        assert check.reason_against("schema", "{}") == ""
        assert check._process is not None
        check._process.kill()
        check._process.wait()
        assert check.reason_against("schema", schema) == ""
    check.close()


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/program"])
def test_the_check_does_not_run(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no fault of the schema."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(EngineError, match="cannot check JSON schemas"):
        SchemaCheck().reason_against("schema", "{}")


def test_what_took_too_long_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time no process is asked."""
    check = SchemaCheck(max_seconds=0.2)
    schema = '{"type": "number", "multipleOf": 123456789}'
    refusal = "it is too complex: it cannot be compiled in 0.2 seconds"
    assert check.reason_against("schema", schema) == refusal
    monkeypatch.setattr(schema_check, "_start", None)  # and so cannot be
    assert check.reason_against("schema", schema) == refusal
    check.close()
