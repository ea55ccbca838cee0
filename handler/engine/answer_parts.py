"""Where an answer reasons, speaks and calls, as far as the engine has to know it.

Reasoning tokens are counted and may be bounded, and stop strings apply to what is said alone. What a part means, and
what a client sees of it, is decided where answers are parsed; here only the markers between the parts are looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class PartMarkers:
    """The texts that divide one request's answer. An empty text is a marker that there is not."""

    reasoning_opens: str = ""
    reasoning_closes: str = ""
    starts_in_reasoning: bool = False  # the prompt has opened it
    calls: tuple[str, ...] = ()  # each begins a call
    call_ends_reasoning: bool = True
    max_reasoning_tokens: int | None = None  # then reasoning is closed; None: it is not bounded
    reasoning_end: str = ""  # what is written there, the closing marker at its end


class Part(Enum):
    START = auto()  # nothing but white space or the beginning of a marker so far
    REASONING = auto()
    CONTENT = auto()
    CALL = auto()  # in the first call or behind it


class AnswerParts:
    """Follows one answer, token by token. Engine thread only.

    `token_ids` are those of the markers that are one special token of the model: they count only where that token was
    written. The others count wherever their text stands.
    """

    def __init__(self, markers: PartMarkers, token_ids: Mapping[str, int]) -> None:
        self.part = Part.REASONING if markers.starts_in_reasoning else Part.START
        self.num_reasoning_tokens = 0
        self._num_opening_tokens = 0  # that may turn out to be those of the opening marker
        self._markers = markers
        self._token_ids = token_ids
        self._tail = b""  # the text since the last marker, as far back as one may begin
        texts = (markers.reasoning_opens, markers.reasoning_closes, *markers.calls)
        self._longest = max(len(text.encode()) for text in texts)
        if not markers.reasoning_opens and self.part is Part.START:
            self.part = Part.CONTENT

    @property
    def is_settled(self) -> bool:
        """Whether the part cannot change any more."""
        return self.part is Part.CALL or (self.part is Part.CONTENT and not self._markers.calls)

    @property
    def must_close(self) -> bool:
        """Whether it has reasoned for as long as it may."""
        most = self._markers.max_reasoning_tokens
        return self.part is Part.REASONING and most is not None and self.num_reasoning_tokens >= most

    @property
    def may_force(self) -> bool:
        """Whether tokens may still be written that the model has not drawn."""
        return self._markers.max_reasoning_tokens is not None and self.part in (Part.START, Part.REASONING)

    def feed(self, token_id: int, piece: bytes) -> bool:
        """Go on by a token; whether its text is content, that of an opening marker before it is known as one too."""
        if self.is_settled:
            return self.part is Part.CONTENT
        before = self.part
        self._tail += piece
        self.part = self._next(token_id)
        if self.part is not before:
            self._tail = b""
        elif self.part is not Part.START:
            self._tail = self._tail[-self._longest :]
        if before is Part.START:
            self._num_opening_tokens += 1
        if Part.REASONING in (before, self.part):
            self.num_reasoning_tokens += self._num_opening_tokens if before is Part.START else 1
        return before is not Part.REASONING and self.part in (Part.START, Part.CONTENT)

    def _next(self, token_id: int) -> Part:
        markers = self._markers
        if self.part is Part.REASONING:
            if self._ends_in(markers.reasoning_closes, token_id):
                return Part.CONTENT
            return Part.CALL if markers.call_ends_reasoning and self._begins_call(token_id) else self.part
        if self._begins_call(token_id):
            return Part.CALL
        if self.part is Part.START:
            return self._after_start(token_id)
        return self.part

    def _after_start(self, token_id: int) -> Part:
        opens = self._markers.reasoning_opens
        written = self._tail.lstrip()
        if self._ends_in(opens, token_id):
            return Part.REASONING
        may_come = opens.encode().lstrip().startswith(written) and opens not in self._token_ids
        return Part.START if not written or may_come else Part.CONTENT

    def _begins_call(self, token_id: int) -> bool:
        return any(self._ends_in(marker, token_id) for marker in self._markers.calls)

    def _ends_in(self, marker: str, token_id: int) -> bool:
        """Whether this token has completed the marker. Tokens of text may end behind it."""
        known = self._token_ids.get(marker)
        if known is not None:
            return token_id == known
        return bool(marker) and marker.encode() in self._tail
