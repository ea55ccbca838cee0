"""Forms: requests whose body is multipart/form-data, such as recordings and images to edit.

A form is read whole and written anew, so that a target reads the same fields as the gateway did, and no others.
"""

import secrets
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from local_gateway.errors import InvalidRequestError

FORM_TYPE = "multipart/form-data"
MAX_PARTS = 100
MAX_TEXT_BYTES = 100_000  # of a field that is read; files are not


class Part(NamedTuple):
    """One field of a form. `filename` is None where it is a text."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of one form, in their order."""

    parts: tuple[Part, ...]
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_type(self) -> str:
        return f"{FORM_TYPE}; boundary={self.boundary}"

    @property
    def num_files(self) -> int:
        return sum(part.filename is not None for part in self.parts)

    @property
    def texts(self) -> bytes:
        """All that is no file, for estimates."""
        return b" ".join(part.content for part in self.parts if part.filename is None)

    def text(self, name: str) -> str:
        """A text field; empty if it is missing. Raises InvalidRequestError if it could be read in two ways."""
        found = [part for part in self.parts if part.name.casefold() == name.casefold()]
        if not found:
            return ""
        part = found[0]
        if len(found) > 1 or part.name != name or part.filename is not None or len(part.content) > MAX_TEXT_BYTES:
            raise InvalidRequestError(f"The form must have one text field named `{name}`.", param=name)
        return part.content.decode("utf-8", "replace").strip()

    def with_text(self, name: str, value: str) -> "Form":
        """The same form with this text in the field `name`."""
        others = tuple(part for part in self.parts if part.name != name)
        return replace(self, parts=(*others, Part(name, value.encode())))

    def encode(self) -> bytes:
        lines: list[bytes] = []
        for part in self.parts:
            head = f'--{self.boundary}\r\ncontent-disposition: form-data; name="{_quoted(part.name)}"'
            head += "" if part.filename is None else f'; filename="{_quoted(part.filename)}"'
            head += f"\r\ncontent-type: {_one_line(part.content_type)}" if part.content_type else ""
            lines += [head.encode("utf-8", "surrogateescape"), b"\r\n\r\n", part.content, b"\r\n"]
        return b"".join([*lines, f"--{self.boundary}--\r\n".encode()])


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == FORM_TYPE


def parse_form(raw: bytes, content_type: str) -> Form:
    """Raises InvalidRequestError."""
    _, options = parse_options_header(content_type)
    reader = _Reader()
    try:
        parser = MultipartParser(options.get(b"boundary", b""), reader.callbacks())  # type: ignore[arg-type]  # a TypedDict of ours
        parser.write(raw)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise InvalidRequestError(f"We could not parse the form of your request: {error}.") from None
    if not reader.is_complete:
        raise InvalidRequestError("The form of your request has no end.")
    return Form(tuple(reader.parts))


class _Reader:
    """Collects parts as the parser finds them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._content: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._content.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise FormParserError(f"it has more than {MAX_PARTS} fields")
        self._headers, self._content = {}, []

    def _end_header(self) -> None:
        name = bytes(self._name).lower()
        if name in self._headers:
            raise FormParserError("a field has one header twice")
        self._headers[name] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise FormParserError("a field has no name")
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                _text(options[b"name"]),
                b"".join(self._content),
                None if filename is None else _text(filename),
                _text(self._headers.get(b"content-type", b"")),
            )
        )

    def _finish(self) -> None:
        self.is_complete = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _one_line(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ")


def _quoted(value: str) -> str:
    """As browsers write it."""
    return value.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
