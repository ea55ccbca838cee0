"""One choice of an answer: what the engine gives, as events. Whole answers and streams are folds of the same events."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from handler.chat.events import CallBegun, Content, Event, Reasoning
from handler.chat.formats.format import Format
from handler.chat.output import OutputParser
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import Tools
from handler.engine.logprobs import TokenLogprob
from handler.engine.sequence import FinishReason, SequenceOutput, SequenceUsage

ReasoningStyle = Literal["split", "keep", "hide"]  # in a field of its own, in the content with its markers, or nowhere
AnswerEnd = Literal["stop", "length", "tool_calls"]


class AnswerForm(NamedTuple):
    """What is known of a request's answers before they come."""

    format: Format
    starts_in: ReasoningState
    tools: Tools
    tokens: frozenset[str]  # those of the format's markers that are single tokens of the model
    has_calls: bool  # whether what looks like a call is one
    reasoning: ReasoningStyle = "split"
    is_free: bool = True  # it follows no schema of the client's


class TurnPart(NamedTuple):
    """What is new of a choice. The last part has its end and its usage."""

    events: list[Event]
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens whose text went into the content
    end: AnswerEnd | None = None
    usage: SequenceUsage | None = None
    ended_by: int | str | None = None  # the token or the stop string


class Turn:
    """Parses the outputs of one sequence. Belongs to one reader."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._parser = OutputParser(
            form.format,
            form.starts_in,
            tools=form.tools,
            tokens=form.tokens,
            has_calls=form.has_calls,
            is_free=form.is_free,
        )
        self.is_plain = False  # all text that follows is content as it is, and `feed` may be left out for it
        self._kept = _KeptReasoning(form.format) if form.reasoning == "keep" else None
        self._logprobs = _ContentLogprobs()

    def feed(self, output: SequenceOutput) -> TurnPart:
        """The events of an output, which may be several that were merged."""
        events = self._events(output)
        spans = self._parser.take_content_spans()
        logprobs = output.logprobs
        if logprobs or self._logprobs.are_held:
            logprobs = self._logprobs.feed(output, spans, is_plain=self.is_plain)
        else:
            self._logprobs.pass_over(output.text)
        if output.finish_reason is None:
            return TurnPart(events, logprobs)
        return TurnPart(events, logprobs, self._end(output.finish_reason), output.usage, output.ended_by)

    def _events(self, output: SequenceOutput) -> list[Event]:
        is_last = output.finish_reason is not None
        if self.is_plain:
            return [Content(output.text)] if output.text else []
        events = self._parser.feed(output.text, [offset for offset, _ in output.marks])
        if is_last:
            events += self._parser.finish()
        if self._kept:
            events = list(self._kept.write(events))
        elif self._form.reasoning == "hide":
            events = [event for event in events if not isinstance(event, Reasoning)]
        self.is_plain = self._parser.is_plain and not is_last and (self._kept is None or not self._kept.is_open)
        return events

    def _end(self, reason: FinishReason) -> AnswerEnd:
        if reason is FinishReason.LENGTH or self._parser.is_cut:
            return "length"
        return "tool_calls" if self._parser.num_whole_calls else "stop"


class _KeptReasoning:
    """Writes reasoning into the content, between its markers."""

    def __init__(self, format: Format) -> None:
        self.is_open = False
        self._pair = format.reasoning

    def write(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Reasoning):
                yield Content(event.text if self.is_open else f"{self._pair.opens}\n{event.text}")
                self.is_open = True
                continue
            if self.is_open and isinstance(event, Content | CallBegun):
                self.is_open = False
                yield Content(f"\n{self._pair.closes}\n\n")
            yield event


class _ContentLogprobs:
    """Picks the logprobs of the tokens whose text begins in the content."""

    def __init__(self) -> None:
        self._held: deque[tuple[int, TokenLogprob]] = deque()  # (character its text begins at, entry)
        self._num_chars = 0  # of the text so far
        self._content_end = 0  # of the last span

    @property
    def are_held(self) -> bool:
        return bool(self._held)

    def pass_over(self, text: str) -> None:
        """Text without logprobs: what was written for the model has none."""
        self._num_chars += len(text)

    def feed(
        self, output: SequenceOutput, spans: Iterable[tuple[int, int]], *, is_plain: bool
    ) -> tuple[TokenLogprob, ...]:
        """`spans` are those of all text, half open, that are known as content since the last time."""
        starts = (self._num_chars + offset for offset in output.logprob_offsets)
        self._held.extend(zip(starts, output.logprobs, strict=True))
        self._num_chars += len(output.text)
        chosen: list[TokenLogprob] = []
        for start, end in spans:
            self._content_end = end
            while self._held and self._held[0][0] < end:
                begins, entry = self._held.popleft()
                if begins >= start:
                    chosen.append(entry)
        if is_plain or output.finish_reason is not None:
            is_content = self._content_end == self._num_chars
            chosen += [
                entry for begins, entry in self._held if is_plain or (is_content and begins >= self._content_end)
            ]
            self._held.clear()
        return tuple(chosen)
