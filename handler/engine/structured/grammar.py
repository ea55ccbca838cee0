"""What an answer may consist of: JSON schemas, and which tokens can go on with a text that follows one.

llguidance does the work. It is imported, and its view of the vocabulary built, when the first schema comes:
that takes a second and 60 MB for 150,000 tokens, half of it with the GIL held, which a start without schemas need not
pay. Knows nothing of logits, and of a sequence only its tokens.
"""

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from handler.engine.sequence import Vocabulary
from handler.engine.structured.schema_check import SchemaCheck, compile_schema
from handler.engine.structured.token_mask import TokenMask, Words, num_words
from handler.errors import SchemaError

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

MAX_SCHEMA_CHARS = 1 << 17  # about OpenAI's limit
MAX_REASON_CHARS = 200  # of llguidance's own words


class NativeTokenizer(NamedTuple):
    """Addresses, for a library that calls llama.cpp without Python: forced text becomes the tokens a model expects."""

    vocab: int
    tokenize: int  # llama_tokenize, or what is called like it


class GrammarVocabulary(Vocabulary, Protocol):
    @property
    def native_tokenizer(self) -> NativeTokenizer: ...


class Grammar:
    """One request's schema, compiled. Its sequences have a matcher each. May be used by any thread."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    def matcher(self) -> "GrammarMatcher":
        """At the beginning of an answer. Takes microseconds."""
        return GrammarMatcher(self._matcher.deep_copy())


class GrammarMatcher:
    """Where one sequence is in its grammar. Used by one thread at a time.

    llguidance bounds the work of each step. Where a schema needs more, or a token comes that is not allowed, the
    matcher has failed: it takes nothing any more, and allows the end alone.
    """

    def __init__(self, matcher: "LLMatcher") -> None:
        self.native = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end can follow."""
        return self.native.is_stopped() and not self.native.is_error()

    def accept(self, token_id: int) -> bool:
        """Go on by a token, the end included. False if the matcher has failed, be it when the mask was made."""
        taken = self.native.consume_token(token_id)
        return taken and not self.native.is_error()  # one that has failed takes the end all the same


class GrammarCompiler:
    """Schemas to grammars for one model's vocabulary, and the masks of a whole step."""

    def __init__(self, vocabulary: GrammarVocabulary, num_threads: int) -> None:
        """Takes no time; `num_threads` are those that make masks."""
        self._vocabulary = vocabulary
        self._num_threads = num_threads
        self._lock = threading.Lock()  # over what is made at first use
        self._tokenizer: LLTokenizer | None = None
        self._executor: LLExecutor | None = None
        self._check = SchemaCheck()

    def compile(self, json_schema: str) -> Grammar:
        """Takes milliseconds, for large schemas seconds, and gives the GIL back. Raises SchemaError."""
        if len(json_schema) > MAX_SCHEMA_CHARS:
            raise _refusal(f"it has {len(json_schema)} characters, and at most {MAX_SCHEMA_CHARS} are allowed")
        if reason := self._check.reason_against(json_schema):
            raise _refusal(reason)
        matcher, reason = compile_schema(json_schema, self._shared_tokenizer())
        if matcher is None:
            raise _refusal(reason)
        return Grammar(matcher)

    def masks(self, matchers: list[GrammarMatcher | None]) -> list[TokenMask | None]:
        """Which tokens may come next, for each sequence of a step that has a matcher; those that end an answer only
        where it may end. Made side by side, without the GIL. Engine thread only."""
        indices = [index for index, matcher in enumerate(matchers) if matcher is not None]
        masks: list[TokenMask | None] = [None] * len(matchers)
        if not indices:
            return masks
        words = self._words([matcher.native for matcher in matchers if matcher is not None])
        for index, row in zip(indices, words, strict=True):
            masks[index] = TokenMask.from_words(row, self._vocabulary.num_tokens)
        return masks

    def close(self) -> None:
        self._check.close()

    def _words(self, matchers: list["LLMatcher"]) -> Words:
        words: Words = np.empty((len(matchers), num_words(self._vocabulary.num_tokens)), np.uint32)
        work = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._shared_executor().unsafe_compute_mask_ptr(work, words.ctypes.data, words[0].nbytes, len(words))
        return words

    def _shared_executor(self) -> "LLExecutor":
        if self._executor is None:
            from llguidance import LLExecutor  # noqa: PLC0415  # see above

            self._executor = LLExecutor(self._num_threads)
        return self._executor

    def _shared_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _make_tokenizer(self._vocabulary)
            return self._tokenizer


def _make_tokenizer(vocabulary: GrammarVocabulary) -> "LLTokenizer":
    """What a token means to a grammar is what a reader will see of it: control tokens, without text, fit nowhere."""
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
