"""Whether a constraint, mostly a JSON schema, can be compiled in bounded time, tried out in a child process.

llguidance has no time limit: a `multipleOf` of nine digits, or thirty patterns that must hold at once, keep it busy for
ever, and no thread can be stopped. So each schema is compiled once in a process that an alarm ends. It has an alphabet
of bytes instead of a vocabulary, imports nothing else, and takes a few milliseconds a schema.

This file is also the child's program: `schema_check.py SECONDS`.
"""

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from handler.errors import EngineError

log = logging.getLogger(__name__)

MAX_SECONDS = 5.0  # of one schema: 3,000 properties take one or two
NICENESS = 10  # running answers have priority: a model on two cores is ten times as slow with one of them taken
MAX_MEMORY = 2 << 30  # bytes of that process
WHITESPACE = r" |\n[ \t]{0,32}"  # between JSON's tokens. Unbounded, models that lose their way write nothing else
MAX_REMEMBERED = 256  # schemas that took too long: the next time they are refused at once
READY = "ready\n"
ANY_OBJECT = '{"type": "object"}'


def compile_constraint(
    kind: str, text: str, tokenizer: "LLTokenizer", preface: str = ""
) -> "tuple[LLMatcher | None, str]":
    """A matcher for a `Constraint`, or why there is none, in llguidance's words. May never return."""
    from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415  # only where constraints come at all
    from llguidance.gbnf_to_lark import GbnfToLarkError  # noqa: PLC0415

    try:
        grammar = _behind(preface, _grammar_of(kind, text)) if preface else _grammar_of(kind, text)
    except (ValueError, GbnfToLarkError, RecursionError) as error:
        return None, str(error)
    limits = LLParserLimits(verbose_errors=False)  # else an error shows the answer so far
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # some contradictions show only here; and what it prepares is there for all copies
    return (None, matcher.get_error()) if matcher.is_error() else (matcher, "")


def _grammar_of(kind: str, text: str) -> str:
    """llguidance's form of a constraint."""
    from llguidance import LLMatcher  # noqa: PLC0415
    from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415

    match kind:
        case "schema":
            return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITESPACE})
        case "regex":
            return LLMatcher.grammar_from_regex(text)
        case "choice":
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(text))))
        case "grammar":
            return LLMatcher.grammar_from_lark(any_to_lark(text))
        case _:
            return LLMatcher.grammar_from_lark(text)


def _behind(preface: str, grammar: str) -> str:
    """The grammar as `@answer` in that of the preface. llguidance gives one grammar as JSON, or as Lark alone."""
    grammars = json.loads(grammar)["grammars"] if grammar.startswith("{") else [{"lark_grammar": grammar}]
    answer, *others = grammars
    return json.dumps({"grammars": [{"lark_grammar": preface}, {**answer, "name": "answer"}, *others]})


class SchemaCheck:
    """Owns the child process, which starts with the first schema and ends with `close`.

    Any thread may call; schemas are checked one after the other. `max_seconds` (wall clock) bounds each of them.
    """

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._too_complex: deque[int] = deque(maxlen=MAX_REMEMBERED)  # hashes of schemas that took too long

    def reason_against(self, kind: str, text: str) -> str:
        """Why the constraint cannot be followed; empty if it can. Raises EngineError where the process cannot run."""
        with self._lock:
            if hash((kind, text)) in self._too_complex:
                return self._too_long
            if self._process is not None and self._process.poll() is not None:
                self._stop()  # killed while it was idle
            process = self._process = self._process or _start(self._max_seconds)
            answer = _ask(process, kind, text)
            if answer:
                return str(json.loads(answer))
            self._stop()  # it has ended: out of time or memory
            self._too_complex.append(hash((kind, text)))
            return self._too_long

    def close(self) -> None:
        with self._lock:
            self._stop()

    @property
    def _too_long(self) -> str:
        return f"it is too complex: it cannot be compiled in {self._max_seconds:g} seconds"

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError), self._process:  # closes its pipes and waits
                self._process = None


def _ask(process: subprocess.Popen[str], kind: str, text: str) -> str:
    """The child's answer; empty if the child has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([kind, text]) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


def _start(max_seconds: float) -> subprocess.Popen[str]:
    """Start the child and wait until it is ready. Raises EngineError."""
    command = [sys.executable, "-P", str(Path(__file__)), str(max_seconds)]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(  # noqa: S603  # the command is ours alone
            command,
            stdin=pipe,
            stdout=pipe,
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C does not reach it; in a session of its own Linux would not heed NICENESS
        )
    except OSError as error:
        raise _broken() from error
    assert process.stdout is not None
    if process.stdout.readline() != READY:
        with process:
            process.kill()
        raise _broken()
    return process


def _broken() -> "EngineError":
    from handler.errors import EngineError  # noqa: PLC0415  # the process itself imports none of our packages

    log.error("The process that checks JSON schemas does not run.")
    return EngineError("This worker cannot check JSON schemas now.")


def main() -> None:
    """Read a constraint a line, as a JSON list of kind and text; write an answer a line, until the alarm ends it."""
    from llguidance import LLTokenizer  # noqa: PLC0415  # only in this process

    max_seconds = float(sys.argv[1])
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    tokenizer = LLTokenizer("byte")
    compile_constraint("schema", ANY_OBJECT, tokenizer)  # the first one takes 160 ms, which no request should pay for
    sys.stdout.write(READY)
    sys.stdout.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, max_seconds)
        kind, text = json.loads(line)
        _, reason = compile_constraint(kind, text, tokenizer)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
