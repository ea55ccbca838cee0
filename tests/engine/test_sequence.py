"""One generation: when it ends, what it shows, what it counts."""

from functools import reduce
from typing import Any

import pytest

from handler.engine.cache.slot import Slot
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import FinishReason, SampledToken, Sequence, SequenceOutput, SequenceUsage
from handler.errors import EngineError
from tests.engine.fakes import CONTROL, END, ByteVocabulary, FakeSampler, logprob


def create_sequence(
    prompt: bytes = b"hello",
    *,
    max_num_tokens: int = 100,
    max_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    sampler: FakeSampler | None = None,
) -> Sequence:
    return Sequence(
        list(prompt),
        SamplingParams(max_tokens=max_tokens, stop=stop),
        vocabulary=ByteVocabulary(),
        max_num_tokens=max_num_tokens,
        sampler=sampler,
    )


def append_all(
    sequence: Sequence, token_ids: bytes | list[int], *, with_logprobs: bool = False
) -> list[SequenceOutput]:
    tokens = [SampledToken(token_id, logprob(token_id) if with_logprobs else None) for token_id in token_ids]
    return [sequence.append(token) for token in tokens]


def logprob_ids(outputs: list[SequenceOutput]) -> list[list[int]]:
    return [[entry.token_id for entry in output.logprobs] for output in outputs]


def test_tokens_become_text() -> None:
    """While it generates, each output has the new text and nothing else."""
    assert append_all(create_sequence(), b"ab") == [SequenceOutput("a"), SequenceOutput("b")]


def test_end_token_ends_it() -> None:
    """The token that ends an answer counts as one, and has no text."""
    sequence = create_sequence()
    *_, last = append_all(sequence, [ord("a"), END])
    assert last == SequenceOutput("", (), FinishReason.STOP, SequenceUsage(5, 0, 2), ended_by=END)
    assert sequence.is_finished


def test_several_tokens_become_one_output() -> None:
    """Their text and their logprobs, one after the other."""
    sequence = create_sequence()
    output = sequence.extend([SampledToken(token_id, logprob(token_id)) for token_id in b"abc"])
    assert (output.text, logprob_ids([output])) == ("abc", [list(b"abc")])
    assert sequence.num_completion_tokens == 3


@pytest.mark.parametrize(
    ("token_ids", "options", "text", "num_tokens"),
    [
        ([*b"ab", END, *b"cd"], {}, "ab", 3),
        (list(b"axyb"), {"stop": ("xy",)}, "a", 3),
        (list(b"abcd"), {"max_tokens": 2}, "ab", 2),
    ],
    ids=["end", "stop", "length"],
)
def test_what_comes_after_an_end_is_dropped(
    token_ids: list[int], options: dict[str, Any], text: str, num_tokens: int
) -> None:
    """It is neither shown nor counted."""
    sequence = create_sequence(**options)
    output = sequence.extend([SampledToken(token_id) for token_id in token_ids])
    assert (output.text, output.usage) == (text, SequenceUsage(5, 0, num_tokens))
    assert sequence.is_finished


@pytest.mark.parametrize(
    ("token_ids", "options"),
    [
        ([*"aß€b".encode(), END], {}),
        ([*"aß".encode(), CONTROL, *b"cd"], {"max_tokens": 4}),
        (list(b"axyb"), {"stop": ("xy",)}),
        (list(b"abcd"), {"max_num_tokens": 8}),
    ],
    ids=["end", "length", "stop", "context"],
)
def test_text_that_is_written_later(token_ids: list[int], options: dict[str, Any]) -> None:
    """Tokens at once, text later: the same outputs as together, and the same end."""
    tokens = [SampledToken(token_id, logprob(token_id)) for token_id in token_ids]
    together, apart = create_sequence(**options), create_sequence(**options)
    expected = together.extend(tokens)
    outputs = []
    for number, token in enumerate(tokens):
        if not apart.is_finished:
            given = apart.advance([token])
            assert apart.token_ids == together.token_ids[: apart.num_tokens]
            if given is not None or number % 2:
                outputs.append(given or apart.write())

    assert reduce(SequenceOutput.followed_by, outputs) == expected


def test_who_may_draft() -> None:
    """A sequence that may get two tokens more: the last one is drawn without a draft."""
    sequence = create_sequence(max_tokens=2)
    assert (sequence.num_left, sequence.may_draft) == (2, True)
    append_all(sequence, b"a")
    assert (sequence.num_left, sequence.may_draft) == (1, False)


def test_stop_string_ends_it() -> None:
    """A stop string is a stop, and stays unseen."""
    outputs = append_all(create_sequence(stop=("xy",)), b"axy")
    assert "".join(output.text for output in outputs) == "a"
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_max_tokens_ends_it() -> None:
    """The last token allowed is shown, with what was held back."""
    *_, last = append_all(create_sequence(max_tokens=3, stop=("bcd",)), b"abc")
    assert (last.text, last.finish_reason) == ("bc", FinishReason.LENGTH)


@pytest.mark.parametrize("max_tokens", [None, 50])
def test_context_ends_it(max_tokens: int | None) -> None:
    """Prompt and answer together never exceed the context."""
    sequence = create_sequence(max_num_tokens=8, max_tokens=max_tokens)
    outputs = append_all(sequence, b"abc")
    assert [output.finish_reason for output in outputs] == [None, None, FinishReason.LENGTH]
    assert sequence.num_tokens == 8


def test_control_tokens_have_no_text() -> None:
    """Tokens without text are counted all the same."""
    sequence = create_sequence()
    assert append_all(sequence, [CONTROL]) == [SequenceOutput("")]
    assert sequence.num_completion_tokens == 1


def test_logprobs_come_with_their_text() -> None:
    """While text is held back for a stop string, so are its logprobs."""
    outputs = append_all(create_sequence(stop=("abc",)), b"xabz", with_logprobs=True)
    assert [output.text for output in outputs] == ["x", "", "", "abz"]
    assert logprob_ids(outputs) == [[ord("x")], [], [], [ord("a"), ord("b"), ord("z")]]


def test_logprobs_of_a_stop_string_are_not_shown() -> None:
    """What is cut from the text is cut from the logprobs."""
    outputs = append_all(create_sequence(stop=("abc",)), b"xabc", with_logprobs=True)
    assert logprob_ids(outputs) == [[ord("x")], [], [], []]


def test_end_releases_logprobs() -> None:
    """At the end every token that is text has had its logprobs."""
    outputs = append_all(create_sequence(stop=("abc",), max_tokens=3), b"xab", with_logprobs=True)
    assert logprob_ids(outputs) == [[ord("x")], [], [ord("a"), ord("b")]]


def test_logprobs_of_a_cut_off_character_are_shown() -> None:
    """Tokens that never became text were drawn all the same."""
    outputs = append_all(create_sequence(max_tokens=2), "aé".encode()[:2], with_logprobs=True)
    assert [output.text for output in outputs] == ["a", ""]
    assert [len(output.logprobs) for output in outputs] == [1, 1]


def test_logprobs_of_a_split_character_come_together() -> None:
    """The tokens of one character appear when the character does."""
    outputs = append_all(create_sequence(), "é".encode(), with_logprobs=True)
    assert [output.text for output in outputs] == ["", "é"]
    assert [len(output.logprobs) for output in outputs] == [0, 2]


def test_error_ends_it() -> None:
    """An error comes with the text that was held back and the usage so far."""
    sequence = create_sequence(stop=("xy",))
    append_all(sequence, b"ax")
    error = EngineError("broken")
    assert sequence.finish(FinishReason.ERROR, error=error) == SequenceOutput(
        "x", (), FinishReason.ERROR, SequenceUsage(5, 0, 2), error
    )


def test_counts_follow_the_slot() -> None:
    """Computed tokens are those of the slot; the rest is pending."""
    sequence = create_sequence()
    assert (sequence.num_computed_tokens, sequence.num_pending_tokens) == (0, 5)
    sequence.slot = Slot(0, token_ids=list(b"hel"))
    assert (sequence.num_computed_tokens, sequence.num_pending_tokens) == (3, 2)


def test_close_frees_the_sampler_once() -> None:
    """Closing again does nothing."""
    sampler = FakeSampler("s", [])
    sequence = create_sequence(sampler=sampler)
    sequence.close()
    sequence.close()
    assert sampler.is_closed


def test_outputs_merge() -> None:
    """Two outputs in one read as they would one after the other."""
    usage = SequenceUsage(1, 0, 2)
    first = SequenceOutput("a", (logprob(1),))
    last = SequenceOutput("b", (logprob(2),), FinishReason.STOP, usage)
    assert first.followed_by(last) == SequenceOutput("ab", (logprob(1), logprob(2)), FinishReason.STOP, usage)
