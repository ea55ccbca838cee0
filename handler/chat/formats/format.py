"""What is known of a family of models: its markers, and the shape of its calls."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from handler.chat.formats.calls import CallShape
from handler.chat.formats.layouts import LAYOUTS, Layout

IdStyle = Literal["any", "nine", "counted"]  # `nine` letters and digits, or `counted` over the conversation


class Pair(NamedTuple):
    """What stands around the reasoning."""

    opens: str
    closes: str


# Texts that vocabularies have as tokens, by the way they look: `<|x|>`, `<x>`, `[X]` and their like.
TOKENS = re.compile(r"(<\|[^<>]*?\|>|<｜[^<>]*?｜>|｜DSML｜|\]<\]minimax\[>\[|<\|?/?[\w:]+\|?>|\[/?[A-Z_]+\])")

THINK = Pair("<think>", "</think>")


@dataclass(frozen=True)
class Channels:
    """Answers made of messages, each with a header that says to whom it goes: gpt-oss, Muse."""

    starts: str  # a message
    channel: str  # the part of its header that names a channel; empty where the recipient alone decides
    body: str  # ends the header
    ends: tuple[str, ...]  # of a message


@dataclass(frozen=True)
class Format:
    """One family.

    `starts` are the markers that announce calls, with the shapes that may follow, tried in turn. `bare` are texts
    that, as the first of an answer, may begin a call without a marker: only that of a known tool is one. `dropped` are
    markers around text, which say nothing to a client; `answers` are those of them that end reasoning too. With
    `call_ends_reasoning` a call ends reasoning that is open; without, it is a thought if the reasoning is closed later.
    With `reasons_anywhere` reasoning may begin behind text. `implied` is a marker that the rendered prompt ends in.
    Under `answer_key` an answer that calls nothing may stand in a JSON object.
    """

    name: str
    starts: Mapping[str, tuple[CallShape, ...]] = field(default_factory=dict)
    bare: Mapping[str, tuple[CallShape, ...]] = field(default_factory=dict)
    reasoning: Pair = THINK
    call_ends_reasoning: bool = False
    reasons_anywhere: bool = False
    dropped: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    implied: str = ""
    channels: Channels | None = None
    answer_key: str = ""
    ids: IdStyle = "any"
    has_parallel_calls: bool = True

    @property
    def layout(self) -> Layout:
        """How its calls are written."""
        return LAYOUTS[self.name]

    @property
    def announcing(self) -> frozenset[str]:
        """The markers that change what text is. Where one is a token, its text alone changes nothing."""
        channels = self.channels
        around = (channels.starts, channels.channel, channels.body, *channels.ends) if channels else ()
        return frozenset(filter(None, (*self.starts, *self.reasoning, *self.dropped, *around)))

    @property
    def markers(self) -> frozenset[str]:
        """All texts that mean something to the parser."""
        return self.announcing.union(*(shape.markers for shapes in self.starts.values() for shape in shapes))

    @property
    def possible_tokens(self) -> frozenset[str]:
        """What in the markers may be single tokens of a model: those that are, the engine has to show in its text."""
        return frozenset(token for marker in self.markers for token in TOKENS.findall(marker))
