"""JSON schemas, compiled, and where a sequence is in one.

llguidance does the work. It is imported, and its view of the vocabulary built, when the first schema comes: that takes
a second and 60 MB for 150,000 tokens, half of it with the GIL held, which a start without schemas need not pay. Knows
nothing of logits, and of a sequence only its tokens.
"""

import threading
from typing import TYPE_CHECKING, Any, Protocol

from handler.engine.structured.schema_check import MAX_SECONDS, SchemaCheck, compile_schema
from handler.engine.vocabulary import NativeTokenizer, Vocabulary
from handler.errors import SchemaError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_CHARS = 1 << 17  # about OpenAI's limit
MAX_REASON_CHARS = 200  # of llguidance's own words


class GrammarVocabulary(Vocabulary, Protocol):
    """A vocabulary that a grammar can be compiled for."""

    @property
    def native_tokenizer(self) -> NativeTokenizer: ...


class Grammar:
    """One request's schema, compiled; each of its sequences gets a matcher. May be used by any thread."""

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
    """What makes grammars of a request's JSON schema. Any thread."""

    def compile(self, json_schema: str) -> Grammar:
        """Raises SchemaError, or EngineError where schemas cannot be compiled at all."""
        ...

    def close(self) -> None: ...


class GrammarCompiler:
    """The `SchemaCompiler` for one model's vocabulary. Owns the process that checks schemas (`SchemaCheck`)."""

    def __init__(self, vocabulary: GrammarVocabulary, *, max_seconds: float = MAX_SECONDS) -> None:
        """Takes no time: everything is made with the first schema. `max_seconds` bounds the check of one schema."""
        self._vocabulary = vocabulary
        self._lock = threading.Lock()  # over the tokenizer
        self._tokenizer: LLTokenizer | None = None
        self._check = SchemaCheck(max_seconds)

    def compile(self, json_schema: str) -> Grammar:
        """Takes milliseconds, for large schemas seconds, and releases the GIL."""
        if len(json_schema) > MAX_SCHEMA_CHARS:
            raise _refusal(f"it has {len(json_schema)} characters, and at most {MAX_SCHEMA_CHARS} are allowed")
        if reason := self._check.reason_against(json_schema):
            raise _refusal(reason)
        matcher, reason = compile_schema(json_schema, self._shared_tokenizer())
        if matcher is None:
            raise _refusal(reason)
        return Grammar(matcher)

    def close(self) -> None:
        self._check.close()

    def _shared_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _make_tokenizer(self._vocabulary)
            return self._tokenizer


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


def _refusal(reason: str) -> SchemaError:
    line = " ".join(reason.split())
    short = line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 3] + "..."
    return SchemaError(f"This worker cannot follow the JSON schema: {short}")
