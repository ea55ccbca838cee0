"""Answers made of messages with headers: gpt-oss's harmony, and Muse.

    <|channel|>analysis<|message|>…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.N <|constrain|>json<|message|>A<|call|>

The header names a channel, a recipient, or both; gpt-oss writes the recipient in either place. A message to a function
is a call, whatever its channel.
"""

import re
from typing import NamedTuple

from handler.chat.events import Content, Reasoning, Steps
from handler.chat.flow import Flow
from handler.chat.formats.calls import MAX_NAME_CHARS, Calls, write_arguments
from handler.chat.formats.format import Channels, Format
from handler.chat.reader import Literals, find, literal_at, peek, read_until, skip

MAX_HEADER_CHARS = 2 * MAX_NAME_CHARS
BETWEEN_MESSAGES = "\n"
REASONING = ("analysis", "self")
NOT_CALLED = ("", "functions.", "user", "assistant", "all", *REASONING)

_CHANNEL = re.compile(r"\s*([^\s<]+)")  # a constraint may follow without a blank
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class _Header(NamedTuple):
    channel: str
    recipient: str

    @property
    def is_call(self) -> bool:
        return self.recipient not in NOT_CALLED

    @property
    def is_reasoning(self) -> bool:
        return self.channel in REASONING or self.recipient in REASONING


class ChannelReader:
    """The machine of formats with channels. `is_open`: the prompt ends within a message of reasoning."""

    def __init__(self, format: Format, channels: Channels, calls: Calls, *, is_open: bool, has_calls: bool) -> None:
        self._channels = channels
        self._starts = format.starts
        self._calls = calls
        self._reader = calls.reader
        self._is_open = is_open
        self._has_calls = has_calls
        self._content = Flow(Content, self._reader, is_trimmed=False)
        self._reasoning = Flow(Reasoning, is_trimmed=True)
        self._stops = Literals((*channels.ends, channels.starts, channels.channel))

    def take_content_spans(self) -> list[tuple[int, int]]:
        return self._content.take_spans()

    def read(self) -> Steps[None]:
        header: _Header | None = _Header(REASONING[0], "") if self._is_open else (yield from self._header())
        while header:
            if header.is_call and self._has_calls and self._calls.has_room:
                yield from self._call(header.recipient.removeprefix("functions."))
            else:
                flow = self._reasoning if header.is_reasoning else self._content
                yield from read_until(self._reader, self._stops, flow.write)
            if self._calls.is_cut or not (yield from peek(self._reader, self._reader.position)):
                break
            yield from self._pass_end()
            header = yield from self._header()
        yield from self._content.finish()

    def _header(self) -> Steps[_Header | None]:
        """Consumes a message's header. Text without one is content; None at the end of the answer."""
        reader, channels = self._reader, self._channels
        at = yield from skip(reader, reader.position)
        if not (yield from peek(reader, at)):
            return None
        if not (yield from literal_at(reader, at, (channels.channel, channels.starts, channels.body, "to="))):
            return _Header("", "")
        found = yield from find(reader, at, (channels.body,), MAX_HEADER_CHARS)
        if found is None and reader.is_closed:
            reader.position = reader.end
            return None
        if found is None:
            start, reader.position = reader.position, at + 1
            yield from self._content.write(reader.text(start, at + 1))
            return _Header("", "")
        reader.position = found.at + len(channels.body)
        return self._parse(reader.text(at, found.at))

    def _parse(self, text: str) -> _Header:
        """`<|start|>assistant to=N<|channel|>commentary json`: of each part the last counts."""
        text = text.rpartition(self._channels.starts)[2]
        role, _, channel = text.rpartition(self._channels.channel) if self._channels.channel else (text, "", "")
        recipient = _RECIPIENT.search(channel) or _RECIPIENT.search(role)
        name = _CHANNEL.match(channel)
        return _Header(name[1] if name else "", recipient[1] if recipient else "")

    def _call(self, name: str) -> Steps[None]:
        """A message to a function: its arguments as JSON, or in the tags of the family."""
        if self._starts:
            yield from self._tagged_call()
            return
        reader = self._reader
        yield self._calls.begin(name)
        at = reader.position = yield from skip(reader, reader.position)
        if (yield from peek(reader, at)) in ("{", "["):
            is_whole = yield from write_arguments(self._calls)
        else:
            start = reader.position
            yield from read_until(reader, self._stops, self._calls.write)
            is_whole = reader.position > start or reader.position < reader.end  # an empty body may be one that was cut
        if is_whole:
            yield from self._calls.end()
            yield from read_until(reader, self._stops, lambda _text: ())

    def _tagged_call(self) -> Steps[None]:
        stops = Literals((*self._starts, *self._stops.texts))
        while (stop := (yield from read_until(self._reader, stops, self._content.write))) in self._starts:
            for shape in self._starts[stop]:
                if (yield from shape.read(self._calls, self._reader.position + len(stop), is_certain=True)):
                    self._content.break_off()
                    break
            else:
                self._reader.position += len(stop)
                yield from self._content.write(stop)
            if self._calls.is_cut:
                return

    def _pass_end(self) -> Steps[None]:
        """Consumes a message's end. Where the next message begins without one, nothing."""
        at = yield from skip(self._reader, self._reader.position)
        if end := (yield from literal_at(self._reader, at, self._channels.ends)):
            self._reader.position = at + len(end)
        self._content.break_off(BETWEEN_MESSAGES)
        self._reasoning.break_off(BETWEEN_MESSAGES)
