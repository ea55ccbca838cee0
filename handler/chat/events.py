"""What an answer is made of, in the order in which it becomes certain. An event is never taken back."""

from collections.abc import Generator
from typing import NamedTuple, TypeVar


class Reasoning(NamedTuple):
    text: str


class Content(NamedTuple):
    text: str


class CallBegun(NamedTuple):
    """The name of call number `call` is complete. Its arguments and its end follow before the next call begins."""

    call: int
    name: str


class Arguments(NamedTuple):
    """A piece of the JSON text of a call's arguments; all pieces together are the text."""

    call: int
    text: str


class CallEnded(NamedTuple):
    """The call is whole. A call without this event was cut."""

    call: int


Event = Reasoning | Content | CallBegun | Arguments | CallEnded

# A machine that reads text: it gives events, and None where it can say no more until text is added.
T = TypeVar("T")
Steps = Generator[Event | None, None, T]
