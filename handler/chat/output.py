"""A model's output, parsed as it comes: reasoning, text, and calls of tools."""

from collections.abc import Collection, Iterable, Iterator

from handler.chat.events import Content, Event, Reasoning, Steps
from handler.chat.flow import Flow
from handler.chat.formats.calls import Calls
from handler.chat.formats.channels import ChannelReader
from handler.chat.formats.format import Format
from handler.chat.formats.wrapped_answer import read_wrapped
from handler.chat.reader import Literals, TextReader, read_until
from handler.chat.reasoning import ReasoningState
from handler.chat.tools import Tools

BRACKETS = ("{", "[")  # of a call that no marker announces: a part of the call itself


class OutputParser:
    """Parses one answer. Whatever a model writes gives events, never an exception.

    Events are final, and the same however the text is cut: text goes out once it can no longer belong to a marker.
    White space beside markers is dropped.

    `tokens` are those of the format's `possible_tokens` that are tokens of this model. A marker that begins with one
    counts where `feed` is told that it was written; the same characters spelled out are text. Others count anywhere,
    and so do the ends of a call that has begun: models spell them at times.
    `has_calls` is False for a request without tools: what looks like a call is then text. `is_free` is False where the
    answer follows a schema of the client's: then it is given as it is.
    """

    def __init__(
        self,
        format: Format,
        starts_in: ReasoningState = ReasoningState.UNDECIDED,
        *,
        tools: Tools | None = None,
        tokens: Collection[str] = (),
        has_calls: bool = True,
        is_free: bool = True,
    ) -> None:
        guarded = {marker for marker in format.announcing if marker.startswith(tuple(tokens))}
        self._reader = TextReader(guarded, whole=guarded.intersection(tokens))
        self._calls = Calls(self._reader, tools or Tools())
        is_open = starts_in is ReasoningState.OPEN
        if format.channels:
            channels = ChannelReader(format, format.channels, self._calls, is_open=is_open, has_calls=has_calls)
            self._machine: ChannelReader | _Answer = channels
        else:
            self._machine = _Answer(format, self._calls, is_open=is_open, has_calls=has_calls, is_free=is_free)
        self._steps = self._machine.read()
        self._is_done = False
        self._implied = format.implied

    @property
    def is_cut(self) -> bool:
        """Whether the text so far ends within a call."""
        return self._calls.is_cut

    @property
    def num_whole_calls(self) -> int:
        return self._calls.num_ended

    @property
    def is_plain(self) -> bool:
        """Whether all text so far has gone out, and all that may come is content as it is."""
        is_plain = isinstance(self._machine, _Answer) and self._machine.is_plain
        return is_plain and self._reader.position == self._reader.end

    def take_content_spans(self) -> list[tuple[int, int]]:
        """Where in the answer's text the content of the events since the last time stands; half open."""
        return self._machine.take_content_spans()

    def feed(self, text: str, marks: Iterable[int] = ()) -> list[Event]:
        """What is certain with this text. `marks` are offsets in it at which a marker's token begins."""
        if self._implied and text:
            if not text.startswith(self._implied[0]):  # a text from elsewhere may hold the prompt's last marker itself
                self._reader.feed(self._implied)
            self._implied = ""
        self._reader.feed(text, marks)
        return self._run()

    def finish(self) -> list[Event]:
        """The rest, now that no more text comes. A call that has begun and not ended is cut."""
        self._reader.close()
        return self._run()

    def _run(self) -> list[Event]:
        events = []
        while not self._is_done:
            try:
                event = next(self._steps)
            except StopIteration:
                self._is_done = True
                break
            if event is None:
                break
            events.append(event)
        return events


class _Answer:
    """The machine of all formats without channels: reasoning, then text with calls in it."""

    def __init__(self, format: Format, calls: Calls, *, is_open: bool, has_calls: bool, is_free: bool) -> None:
        self._format = format
        self._calls = calls
        self._reader = calls.reader
        self._in_reasoning = is_open
        self._in_object = False
        self._reasoning = Flow(Reasoning, is_trimmed=True)
        self._content = Flow(Content, self._reader, is_trimmed=False)
        self._starts = dict(format.starts) if has_calls else {}
        self._bare = dict(format.bare) if has_calls else {}
        self._answer_key = format.answer_key if has_calls and is_free and len(calls.tools) else ""

    @property
    def is_plain(self) -> bool:
        """Whether no marker can mean anything any more, and no text is held."""
        has_markers = self._starts or self._format.dropped or self._format.reasons_anywhere
        is_within = self._in_reasoning or self._in_object
        return self._content.has_begun and not (is_within or has_markers or self._content.holds)

    def take_content_spans(self) -> list[tuple[int, int]]:
        return self._content.take_spans()

    def read(self) -> Steps[None]:
        while marker := (yield from read_until(self._reader, self._stops(), self._write)):
            yield from self._take(marker)
        yield from (() if self._in_reasoning else self._content.finish())

    def _stops(self) -> Literals:
        pair = self._format.reasoning
        if self._in_reasoning:
            opens = () if self._reasoning.has_begun else (pair.opens,)
            return Literals((pair.closes, *self._format.answers, *self._starts, *opens))
        opens = (pair.opens,) if self._format.reasons_anywhere else ()
        at_start = opens if self._content.has_begun else (*pair, *self._bare)
        return Literals((*self._starts, *self._format.dropped, *at_start))

    def _take(self, marker: str) -> Steps[None]:
        """What a marker at the reader's position means here. Where it means nothing, it is text."""
        reader, pair = self._reader, self._format.reasoning
        flow = self._reasoning if self._in_reasoning else self._content
        is_first = not self._in_reasoning and not self._content.has_begun
        ends_reasoning = marker == pair.closes or marker in self._format.answers
        if ends_reasoning and (self._in_reasoning or is_first):
            reader.position += len(marker)
            self._in_reasoning = False
            self._content.break_off()
        elif marker == pair.opens and self._may_open:
            reader.position += len(marker)
            self._in_reasoning = True
            self._content.break_off()
        elif marker in self._format.dropped and not self._in_reasoning:
            reader.position += len(marker)
            self._content.break_off()
        elif is_first and marker == "{" and self._answer_key and (yield from self._wrapped()):
            self._content.break_off()
        elif (yield from self._calls_at(marker, is_first)):
            self._in_reasoning = False
            flow.break_off()
            self._content.break_off()
        else:
            reader.position += len(marker)
            yield from flow.write(marker)

    def _wrapped(self) -> Steps[bool]:
        """Reads an answer in an object, if there is one."""
        self._in_object = True
        is_one = yield from read_wrapped(self._reader, self._answer_key, self._write_first)
        self._in_object = False
        return is_one

    def _write_first(self, text: str) -> Iterator[Event]:
        """Content, without the white space before the first of it."""
        if not self._content.has_begun:
            self._content.break_off()
        return self._content.write(text)

    @property
    def _may_open(self) -> bool:
        """Whether reasoning can begin here. Where the prompt has opened it, a model may do so once more."""
        if self._in_reasoning:
            return not self._reasoning.has_begun
        return self._format.reasons_anywhere or not self._content.has_begun

    def _calls_at(self, marker: str, is_first: bool) -> Steps[bool]:
        """Reads calls, if there are any. In reasoning only a known tool's call is one: models may think about calls."""
        behind = self._reader.position + len(marker)
        is_certain = not self._in_reasoning or not self._calls.tools
        for shape in self._starts.get(marker, ()):
            steps = shape.read(self._calls, behind, is_certain=is_certain)
            is_thought = self._in_reasoning and not self._format.call_ends_reasoning
            if (yield from self._unless_closed(steps) if is_thought else steps):
                return True
        at = self._reader.position if marker in BRACKETS else behind
        for shape in self._bare.get(marker, ()) if is_first else ():
            if (yield from shape.read(self._calls, at, is_certain=False)):
                return True
        return False

    def _unless_closed(self, steps: Steps[bool]) -> Steps[bool]:
        """A call in open reasoning, unless the reasoning is closed behind it: then it is a thought.

        Which of the two is known late, so what is no call in any case does not wait.
        """
        reader, start, closes = self._reader, self._reader.position, self._format.reasoning.closes
        try:
            while (begun := next(steps)) is None:
                yield None
        except StopIteration as stop:
            return bool(stop.value)
        behind, reader.position = reader.position, start
        while not reader.is_closed and closes not in reader.text(start):
            yield None
        if closes in reader.text(start):
            self._calls.take_back()
            return False
        reader.position = behind
        yield begun
        return (yield from steps)

    def _write(self, text: str) -> Iterator[Event]:
        return (self._reasoning if self._in_reasoning else self._content).write(text)
