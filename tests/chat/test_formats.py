"""The golden set: what each family writes, and what becomes of it, however it is cut."""

from typing import Any

import pytest

from handler.chat.formats import FORMATS
from handler.chat.formats.format import Format
from tests.chat.transcripts import calling, parse, parse_in_any_cut, saying, thinking

WEATHER = ("get_weather", {"city": "Zürich", "days": 3})
TRICKY: dict[str, Any] = {"path": 'a "b" \\ c', "text": "{ [ ' }\n\n```\n<b>&amp;</b> 👩‍🚀 }"}


def is_marked(format: Format) -> bool:
    """Whether a marker announces its calls."""
    return calling(format, WEATHER).strip().startswith((*format.starts, " to=", "to=", "<|channel|>"))


FORMAT_LIST = [pytest.param(format, id=name) for name, format in FORMATS.items()]
MARKED = [pytest.param(format, id=name) for name, format in FORMATS.items() if is_marked(format) or format.implied]
THINKING = [pytest.param(format, id=name) for name, format in FORMATS.items() if not format.implied]

families = pytest.mark.parametrize("format", FORMAT_LIST)
thinking_families = pytest.mark.parametrize("format", THINKING)
marked_families = pytest.mark.parametrize("format", MARKED)


@families
def test_one_call(format: Format) -> None:
    """Its name and arguments, and nothing else."""
    answer = parse_in_any_cut(format, calling(format, WEATHER))

    assert answer.parsed_calls == [WEATHER]
    assert (answer.reasoning, answer.content, answer.is_cut) == ("", "", False)


@families
def test_two_calls(format: Format) -> None:
    """Both are whole, in their order, also where they come in one piece."""
    calls = [WEATHER, ("get_weather", {"city": "Bern", "days": 1})]

    assert parse_in_any_cut(format, calling(format, *calls)).parsed_calls == calls


@families
def test_no_arguments(format: Format) -> None:
    """An empty object is sent, and the next call keeps its own."""
    calls: list[tuple[str, dict[str, Any]]] = [("get_time", {}), WEATHER]

    assert parse_in_any_cut(format, calling(format, *calls)).parsed_calls == calls


@families
def test_quotes_braces_and_tags_in_a_string(format: Format) -> None:
    """Arguments hold what files hold."""
    call = ("write_file", TRICKY)

    assert parse_in_any_cut(format, calling(format, call)).parsed_calls == [call]


@families
def test_nested_arguments(format: Format) -> None:
    """Objects, lists, numbers and literals keep their types."""
    options = {"k": ["v", True, None, -1.5], "o": {"deep": "x"}}
    call = ("get_weather", {"city": "x", "options": options})

    assert parse_in_any_cut(format, calling(format, call)).parsed_calls == [call]


@marked_families
def test_an_end_marker_in_a_string(format: Format) -> None:
    """It ends nothing where what follows cannot follow it."""
    shapes = [shape for shapes in format.starts.values() for shape in shapes]
    marker = shapes[0].markers[-1] if shapes and shapes[0].markers else "<|call|>"
    call = ("write_file", {"path": "p", "text": f"a {marker} b"})

    if format.layout.quote != marker:  # Gemma has no way to write its own quote
        assert parse_in_any_cut(format, calling(format, call)).parsed_calls == [call]


@families
def test_an_unknown_tool(format: Format) -> None:
    """A marked call goes to the client as it is; what no marker announces is text."""
    answer = parse_in_any_cut(format, calling(format, ("no_such_tool", {"a": "b"})))

    if is_marked(format) or format.implied:
        assert answer.parsed_calls == [("no_such_tool", {"a": "b"})]
    else:
        assert not answer.calls
        assert "no_such_tool" in answer.content


@marked_families
def test_text_before_a_call(format: Format) -> None:
    """The white space between them is dropped."""
    answer = parse_in_any_cut(format, saying(format, "Let me see. ") + calling(format, WEATHER))

    assert answer.parsed_calls == [WEATHER]
    assert answer.content == "Let me see."


@thinking_families
def test_thinking_before_a_call(format: Format) -> None:
    """Reasoning without its markers, and without the white space beside them."""
    answer = parse_in_any_cut(format, thinking(format, "Hm, < or {?") + calling(format, WEATHER))

    assert answer.parsed_calls == [WEATHER]
    assert (answer.reasoning, answer.content) == ("Hm, < or {?", "")


@marked_families
def test_thinking_that_a_call_ends(format: Format) -> None:
    """Some models forget to close their reasoning."""
    if format.channels or format.implied:
        pytest.skip("a call has a message of its own")
    answer = parse_in_any_cut(format, format.reasoning.opens + "Hm.\n" + calling(format, WEATHER))

    assert answer.parsed_calls == [WEATHER]
    assert answer.reasoning == "Hm."


@thinking_families
def test_thinking_before_text(format: Format) -> None:
    """An answer without calls."""
    answer = parse_in_any_cut(format, thinking(format, "Hm.") + saying(format, "Hello!"))

    assert (answer.reasoning, answer.content, answer.calls) == ("Hm.", "Hello!", ())


@marked_families
def test_text_that_mentions_the_marker(format: Format) -> None:
    """What no call's name follows is text again."""
    for marker in format.starts:
        text = f"Write {marker} before a call, and {marker}."
        if not format.channels:
            assert parse_in_any_cut(format, saying(format, text)[: len(text) + 4]).content.startswith(text[:-1])


@families
def test_a_text_cut_anywhere(format: Format) -> None:
    """Every beginning gives a beginning of the whole answer; a call that has begun is cut or whole."""
    text = saying(format, "I see. ") if is_marked(format) else ""
    text += calling(format, WEATHER, ("get_time", {}))
    whole = parse(format, text)

    assert len(whole.calls) == 2
    for length in range(len(text)):
        answer = parse(format, text[:length])
        for (name, arguments), (whole_name, whole_arguments) in zip(answer.calls, whole.calls, strict=False):
            assert name == whole_name
            assert whole_arguments.startswith(arguments) or answer.is_cut


@families
def test_plain_text_stays_as_it_is(format: Format) -> None:
    """White space, brackets and all; harmony's without a header too."""
    text = " Hello {world}, [1] <b>x</b> ```json\n{}\n``` \n"
    if format.implied:
        assert parse_in_any_cut(format, f"all\n{text}").content == text.lstrip()
    else:
        assert parse_in_any_cut(format, text).content == text
