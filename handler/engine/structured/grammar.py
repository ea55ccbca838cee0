"""Constraints, mostly JSON schemas, compiled, and where a sequence is in one.

llguidance does the work. It is imported, and its view of the vocabulary built, when the first schema comes: that takes
a second and 60 MB for 150,000 tokens, half of it with the GIL held, which a start without schemas need not pay. Knows
nothing of logits, and of a sequence only its tokens.
"""

import re
import threading
from collections import OrderedDict
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from handler.engine.constraint import Constraint, ConstraintKind
from handler.engine.structured.json_schema import prepare
from handler.engine.structured.schema_check import MAX_SECONDS, SchemaCheck, compile_constraint
from handler.engine.vocabulary import NativeTokenizer, Vocabulary
from handler.errors import SchemaError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_CHARS = 1 << 17  # about OpenAI's limit
MAX_REASON_CHARS = 200  # of llguidance's own words
MAX_KNOWN = 32  # compiled constraints that are kept: applications repeat theirs
NUM_COMPILERS = 2  # constraints compiled at once
BYTES, NUM_SPECIAL = 256, 6  # tokens of llguidance's alphabet of bytes
_TOKEN = re.compile(r"<\[(\d+)\]>")
NAMES: dict[ConstraintKind, str] = {
    "schema": "JSON schema",
    "regex": "regular expression",
    "choice": "choice",
    "grammar": "grammar",
    "lark": "grammar",
}


class GrammarVocabulary(Vocabulary, Protocol):
    """A vocabulary that a grammar can be compiled for."""

    @property
    def native_tokenizer(self) -> NativeTokenizer: ...


class Grammar:
    """One constraint, compiled; each of its sequences gets a matcher. May be used by any thread."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def matcher(self) -> "GrammarMatcher":
        """A new one, at the beginning of an answer. Takes microseconds."""
        return GrammarMatcher(self._matcher.deep_copy())


class GrammarMatcher:
    """A `Matcher`: where one sequence is in its grammar. Used by one thread at a time.

    llguidance bounds the work of each step. Where a schema needs more, or a token comes that is not allowed, the
    matcher has failed: it accepts nothing any more, and allows the end alone.
    """

    def __init__(self, matcher: "LLMatcher") -> None:
        self.native = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end of the answer can follow."""
        return self.native.is_stopped() and not self.native.is_error()

    def accept(self, token_id: int) -> bool:
        """Advance by a token, the end included. False if the matcher has failed, now or when its mask was computed."""
        taken = self.native.consume_token(token_id)
        return taken and not self.native.is_error()  # one that has failed accepts the end all the same


class SchemaCompiler(Protocol):
    """What makes grammars of requests' constraints. Any thread."""

    def known(self, constraint: Constraint) -> Grammar | None:
        """One that was compiled lately, at once; None if it must be compiled."""
        ...

    def compile(self, constraint: Constraint) -> Grammar:
        """Raises SchemaError, or EngineError where constraints cannot be compiled at all."""
        ...

    def close(self) -> None: ...


class GrammarCompiler:
    """The `SchemaCompiler` for one model's vocabulary. Owns the processes that check constraints (`SchemaCheck`)."""

    def __init__(self, vocabulary: GrammarVocabulary, *, max_seconds: float = MAX_SECONDS) -> None:
        """Takes no time: everything is made with the first constraint. `max_seconds` bounds the check of one."""
        self._vocabulary = vocabulary
        self._lock = threading.Lock()  # over the tokenizer and the known grammars
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[Constraint, Grammar] = OrderedDict()  # the latest used last
        self._checks = [SchemaCheck(max_seconds) for _ in range(NUM_COMPILERS)]
        self._idle: SimpleQueue[SchemaCheck] = SimpleQueue()
        for check in self._checks:
            self._idle.put(check)

    def known(self, constraint: Constraint) -> Grammar | None:
        with self._lock:
            if grammar := self._known.get(constraint):
                self._known.move_to_end(constraint)
            return grammar

    def compile(self, constraint: Constraint) -> Grammar:
        """Takes milliseconds, for large schemas seconds, and releases the GIL."""
        kind, text = constraint.kind, constraint.text
        if constraint.parts:
            for part in constraint.parts:
                self._checked(part)
            self._require(kind, with_byte_tokens(text))  # parts that are simple alone may not be so together
        else:
            text = self._checked(constraint)
        matcher, reason = compile_constraint(kind, text, self._shared_tokenizer(), constraint.preface)
        if matcher is None:
            raise _refusal(kind, reason)
        return self._remember(constraint, Grammar(matcher))

    def close(self) -> None:
        for check in self._checks:
            check.close()

    def _checked(self, constraint: Constraint) -> str:
        """The text of a constraint that can be followed, as llguidance is given it. Raises SchemaError."""
        try:
            return self._check(constraint)
        except SchemaError as error:
            raise (error.at(constraint.param) if constraint.param else error) from None

    def _check(self, constraint: Constraint) -> str:
        kind, text = constraint.kind, constraint.text
        if len(text) > MAX_SCHEMA_CHARS:
            raise _refusal(kind, f"it has {len(text)} characters, and at most {MAX_SCHEMA_CHARS} are allowed")
        if kind == "schema":
            text = prepare(text, strict=constraint.strict)
        self._require(kind, text)
        return text

    def _require(self, kind: ConstraintKind, text: str) -> None:
        """Have the text compiled in a child process. Raises SchemaError if that fails, or takes too long."""
        check = self._idle.get()
        try:
            reason = check.reason_against(kind, text)
        finally:
            self._idle.put(check)
        if reason:
            raise _refusal(kind, reason)

    def _remember(self, constraint: Constraint, grammar: Grammar) -> Grammar:
        with self._lock:
            self._known[constraint] = grammar
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return grammar

    def _shared_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _make_tokenizer(self._vocabulary)
            return self._tokenizer


def with_byte_tokens(lark: str) -> str:
    """The grammar with its tokens renumbered to those that are no bytes in the alphabet of bytes, which the check has:
    as much work to compile, and refused for the same reasons. There are few of them, so different ones may become one.
    """
    return _TOKEN.sub(lambda token: f"<[{BYTES + int(token[1]) % NUM_SPECIAL}]>", lark)


def _make_tokenizer(vocabulary: GrammarVocabulary) -> "LLTokenizer":
    """A token means to a grammar what a reader will see of it: control tokens, without text, fit nowhere."""
    from llguidance import LLTokenizer  # noqa: PLC0415  # see above

    ends = vocabulary.end_of_generation
    pieces = [b"" if token_id in ends else vocabulary.piece(token_id) for token_id in range(vocabulary.num_tokens)]
    make: Any = LLTokenizer.from_llamacpp  # type: ignore[attr-defined]  # missing in its stub; llguidance.llamacpp uses it
    tokenizer: LLTokenizer = make(
        tokens=pieces,
        vocab_ptr=vocabulary.native_tokenizer.vocab,
        tokenize_fptr=vocabulary.native_tokenizer.tokenize,
        eos_token=sorted(ends),
    )
    return tokenizer


def _refusal(kind: ConstraintKind, reason: str) -> SchemaError:
    line = " ".join(reason.split())
    short = line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."
    code = None if kind == "schema" else "invalid_constraint"
    return SchemaError(f"This worker cannot follow the {NAMES[kind]}: {short}", code=code)
