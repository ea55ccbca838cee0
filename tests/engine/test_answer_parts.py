"""Marks of tokens that a request wants to be shown, and what differs between reasoning, content and calls."""

from collections.abc import Iterable

import pytest

from handler.engine.answer_parts import PartMarkers
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason, Mark, SampledToken, Sequence, SequenceOutput
from tests.engine.fakes import END, ByteVocabulary, logprob

THINK, SLASH_THINK, CALL = "<think>", "</think>", "<tool_call>"
MARKERS = PartMarkers(THINK, SLASH_THINK, calls=(CALL,))
TOKENS = ByteVocabulary(THINK, SLASH_THINK, CALL)
SPELLED = ByteVocabulary()


def create(
    vocabulary: ByteVocabulary = TOKENS,
    parts: PartMarkers | None = MARKERS,
    *,
    stop: tuple[str, ...] = (),
    max_tokens: int | None = None,
    reasoning_end: Iterable[int] = (),
) -> Sequence:
    params = SamplingParams(shown_tokens=(THINK, SLASH_THINK, CALL), parts=parts, stop=stop, max_tokens=max_tokens)
    return Sequence(list(b"hi"), params, vocabulary=vocabulary, max_num_tokens=1000, reasoning_end=tuple(reasoning_end))


def write(sequence: Sequence, text: str, *, ends: bool = True) -> SequenceOutput:
    """All that comes of a model that writes this text, as one output."""
    vocabulary = sequence._vocabulary
    assert isinstance(vocabulary, ByteVocabulary)
    output = SequenceOutput()
    for token_id in [*vocabulary.tokenize(text), *([END] if ends else [])]:
        if sequence.is_finished:
            break
        output = output.followed_by(sequence.append(SampledToken(token_id)))
    return output


def test_shown_tokens_have_text_and_marks() -> None:
    """Control tokens that are asked for; their marks move with the text before them."""
    output = write(create(), "So <tool_call>f</tool_call><tool_call>")

    assert output.text == "So <tool_call>f</tool_call><tool_call>"
    assert output.marks == (Mark(3, TOKENS.tokenize(CALL)[0]), Mark(27, TOKENS.tokenize(CALL)[0]))


def test_what_a_model_spells_has_no_mark() -> None:
    """A vocabulary without the token shows the same text."""
    output = write(create(SPELLED), "So <tool_call>f")

    assert (output.text, output.marks) == ("So <tool_call>f", ())


def test_marks_are_held_with_their_text() -> None:
    """Behind text that may begin a stop string nothing is shown, nor marked."""
    sequence = create(parts=None, stop=("x<tool_call>y",))
    held = [sequence.append(SampledToken(token_id)) for token_id in TOKENS.tokenize("ax<tool_call>")]
    shown = sequence.append(SampledToken(ord("z")))

    assert [(output.text, output.marks) for output in held] == [("a", ()), ("", ()), ("", ())]
    assert shown.text == "x<tool_call>z"
    assert shown.marks == (Mark(1, TOKENS.tokenize(CALL)[0]),)


def test_a_mark_behind_half_a_character() -> None:
    """What is there of the character counts before the marker, not behind it."""
    sequence = create()
    outputs = [sequence.append(SampledToken(token_id)) for token_id in (0xC3, *TOKENS.tokenize(CALL))]

    assert [output.text for output in outputs] == ["", "\ufffd<tool_call>"]
    assert outputs[1].marks[0].offset == 1


def test_logprobs_stand_beside_marks() -> None:
    """A marker's token has one as every token has."""
    sequence = create()
    [token_id] = TOKENS.tokenize(CALL)
    output = sequence.append(SampledToken(token_id, logprob(ord("m"))))

    assert len(output.logprobs) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hello, world", "Hello"),
        ("<think>one, two</think>Hello, world", "<think>one, two</think>Hello"),
        ("\n<think>a</think>\n\nb, c", "\n<think>a</think>\n\nb"),
        ("Hm<tool_call>f(a, b)</tool_call>", "Hm<tool_call>f(a, b)</tool_call>"),
        ("<think>a<tool_call>f(a, b)", "<think>a<tool_call>f(a, b)"),
        (", at once", ""),
    ],
)
@pytest.mark.parametrize("vocabulary", [TOKENS, SPELLED], ids=["tokens", "spelled"])
def test_stop_strings_are_of_content(vocabulary: ByteVocabulary, text: str, shown: str) -> None:
    """In reasoning and in calls they are text like any other."""
    output = write(create(vocabulary, stop=(",",)), text)

    assert output.text == shown
    assert output.ended_by == (END if shown == text else ",")


def test_reasoning_that_the_prompt_has_opened() -> None:
    """It ends with the first closing marker."""
    parts = PartMarkers(THINK, SLASH_THINK, starts_in_reasoning=True)
    output = write(create(parts=parts, stop=(",",)), "a, b</think>c, d")

    assert output.text == "a, b</think>c"


@pytest.mark.parametrize("vocabulary", [TOKENS, SPELLED], ids=["tokens", "spelled"])
def test_reasoning_tokens_are_counted(vocabulary: ByteVocabulary) -> None:
    """With the markers around them, and no others."""
    output = write(create(vocabulary), "<think>abc</think>Hello")

    assert output.usage is not None
    assert output.usage.num_reasoning_tokens == len(vocabulary.tokenize("<think>abc</think>"))


def test_content_is_not_counted_as_reasoning() -> None:
    """A marker in mid-text opens nothing."""
    output = write(create(), "Use <think> so")

    assert output.usage is not None
    assert output.usage.num_reasoning_tokens == 0


def test_bounded_reasoning_is_closed() -> None:
    """The end is written instead of what was drawn; the answer goes on behind it."""
    parts = PartMarkers(THINK, SLASH_THINK, max_reasoning_tokens=3)
    sequence = create(parts=parts, reasoning_end=TOKENS.tokenize("!</think>"))
    output = write(sequence, "<think>abcdef", ends=False)
    assert output.text == "<think>ab!</think>ef"
    assert sequence.usage.num_reasoning_tokens == 5

    assert write(sequence, "gh").text == "gh"


def test_no_reasoning_at_all() -> None:
    """A budget of nothing closes what the prompt has opened before anything is drawn."""
    parts = PartMarkers(THINK, SLASH_THINK, starts_in_reasoning=True, max_reasoning_tokens=0)
    output = write(create(parts=parts, reasoning_end=TOKENS.tokenize("</think>")), "xHello")

    assert output.text == "</think>Hello"


def test_a_character_is_whole_before_reasoning_is_closed() -> None:
    """The budget may end within one."""
    parts = PartMarkers(THINK, SLASH_THINK, starts_in_reasoning=True, max_reasoning_tokens=1)
    output = write(create(parts=parts, reasoning_end=TOKENS.tokenize("</think>")), "éxy")

    assert output.text == "é</think>y"


def test_bounded_reasoning_has_no_drafts() -> None:
    """A draft's tokens would be those of a text that is not written."""
    parts = PartMarkers(THINK, SLASH_THINK, starts_in_reasoning=True, max_reasoning_tokens=10)
    sequence = create(parts=parts)
    assert not sequence.may_draft

    write(sequence, "a</think>b", ends=False)
    assert sequence.may_draft


def test_a_stop_string_is_told() -> None:
    """Which of several it was."""
    output = write(create(parts=None, stop=("x", "lo")), "Hello")

    assert (output.text, output.finish_reason, output.ended_by) == ("Hel", FinishReason.STOP, "lo")
