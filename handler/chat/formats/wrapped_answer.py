"""An answer in a JSON object, `{"response": "…"}`: models write it that were told to choose between it and a call."""

import json

from handler.chat.events import Steps
from handler.chat.formats.calls import json_end
from handler.chat.formats.values import Write
from handler.chat.json_scan import JsonScan
from handler.chat.reader import Literals, TextReader, literal_at, peek, read_until, skip

_STOPS = Literals(('"', "\\"))
_HIGH, _LOW = ("\\ud8", "\\ud9", "\\uda", "\\udb"), ("\\udc", "\\udd", "\\ude", "\\udf")  # halves of a pair
_UNICODE_CHARS = 6  # \uXXXX; two of them are one character beyond the first 65,536


def read_wrapped(reader: TextReader, key: str, write: Write) -> Steps[bool]:
    """Writes what is under the key in the object at the reader's position: a string as its text, as it comes, any other
    value as it is written.

    False where the object does not begin with this key: then nothing has been consumed. Otherwise all of the object is.
    """
    at = yield from skip(reader, reader.position + 1)
    for literal in (f'"{key}"', ":"):
        if not (yield from literal_at(reader, at, (literal,))):
            return False
        at = yield from skip(reader, at + len(literal))
    first = yield from peek(reader, at)
    if not first:
        return False
    reader.position = at
    if (yield from _string(reader, write) if first == '"' else _value(reader, write)):
        end = yield from json_end(reader, reader.position, depth=1)
        reader.position = reader.end if end is None else end
    return True


def _value(reader: TextReader, write: Write) -> Steps[bool]:
    """False if the answer ends within it."""
    scan = JsonScan()
    while True:
        text = reader.text(reader.position)
        length = scan.feed(text)
        reader.position += length
        yield from write(text[:length])
        if scan.is_done:
            return True
        if reader.is_closed:
            return scan.finish()
        yield None


def _string(reader: TextReader, write: Write) -> Steps[bool]:
    """False if the answer ends within it."""
    reader.position += 1
    while stop := (yield from read_until(reader, _STOPS, write)):
        if stop == '"':
            reader.position += 1
            return True
        text = yield from _escape(reader)
        yield from write(text)
    return False


def _escape(reader: TextReader) -> Steps[str]:
    """Consumes a backslash and what belongs to it; the character that it means. One that means none stays."""
    start = reader.position
    length = _UNICODE_CHARS if (yield from peek(reader, start + 1)) == "u" else 2
    yield from peek(reader, start + length - 1)
    escape = reader.text(start, start + length)
    if escape[:4].lower() in _HIGH:
        yield from peek(reader, start + 2 * length - 1)
        both = reader.text(start, start + 2 * length)
        escape = both if both[length : length + 4].lower() in _LOW else escape
    reader.position = min(start + len(escape), reader.end)
    try:
        return str(json.loads(f'"{escape}"')).encode("utf-8", "replace").decode()
    except ValueError:
        return escape
