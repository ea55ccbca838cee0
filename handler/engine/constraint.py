"""What an answer must consist of, as a request states it. A leaf: knows nothing of how it is compiled and enforced."""

from dataclasses import dataclass
from typing import Literal

ConstraintKind = Literal["schema", "regex", "choice", "grammar", "lark"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint over a whole answer.

    `text` is a JSON schema as JSON (`schema`), a regular expression (`regex`), a JSON list of texts (`choice`), a
    grammar in llama.cpp's GBNF or in Lark (`grammar`), or one in llguidance's Lark (`lark`), which may name tokens by
    their ids and has no size that a client could choose but for its `parts`.
    """

    kind: ConstraintKind
    text: str
    strict: bool = False  # of a schema: keywords that cannot be enforced are refused instead of let go
    preface: str = ""  # what stands before it in the answer: Lark, whose `start` ends in @answer
    parts: tuple["Constraint", ...] = ()  # schemas that stand in a `lark`: each is checked by itself
    param: str = ""  # the request's field that a part comes from, for errors
