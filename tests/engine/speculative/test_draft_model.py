"""A second model that follows the first: what it computes, and when; models without arithmetic on both sides."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.speculative.draft_model import DraftModel, check_same_vocabulary
from handler.errors import CacheFullError, ConfigError, DecodeError
from tests.engine.fakes import END, FakeRunner, as_text


class Bench:
    """A draft model, and the target's sequences."""

    def __init__(self, *, num_slots: int = 4, num_cells: int = 1000, max_batch_tokens: int = 64) -> None:
        self.runner = FakeRunner({"script": "ed"}, num_slots=num_slots, num_cells=num_cells)
        self.drafter = DraftModel(self.runner, max_batch_tokens=max_batch_tokens, num_target_tokens=258)

    def draft(self, *sequences: Sequence, max_tokens: int = 4) -> list[str]:
        drafts = self.drafter.propose(list(sequences), [max_tokens] * len(sequences))
        self.drafter._cache.check_integrity()
        for shadow in self.drafter._holding_slots():
            assert shadow.sequence.slot is not None
            held = self.runner.memory.token_ids(shadow.sequence.slot.seq_id)
            assert held == shadow.sequence.token_ids[: len(held)], "the slot holds something else"
        return [as_text(draft) for draft in drafts]

    def says(self, sequence: Sequence, num_tokens: int = 4) -> str:
        return self.runner.answer(as_text(sequence.token_ids), num_tokens)

    def steps(self) -> list[str]:
        """Since they were asked for last."""
        events = [event for event in self.runner.events if event.startswith("step")]
        self.runner.events.clear()
        return events


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.drafter.close()
    assert bench.runner.is_closed
    assert all(sampler.is_closed for sampler in bench.runner.samplers)


def create_sequence(text: str, *, seed: int | None = None) -> Sequence:
    params = SamplingParams(seed=seed)
    return Sequence(list(text.encode()), params, vocabulary=FakeRunner().vocabulary, max_num_tokens=500)


def test_guesses_what_it_would_say_itself(bench: Bench) -> None:
    """One token after the other, for all together."""
    sequences = [create_sequence("hello"), create_sequence("world")]
    assert bench.draft(*sequences) == [bench.says(sequence) for sequence in sequences]
    assert len(bench.steps()) == 4


def test_right_guesses_are_not_computed_again(bench: Bench) -> None:
    """Only the last one, which was drawn and not computed, and the token behind it."""
    sequence = create_sequence("hello")
    (draft,) = bench.draft(sequence)
    sequence.token_ids += [*draft.encode(), 33]
    assert bench.draft(sequence) == [bench.says(sequence)]
    assert bench.runner.memory.num_used_cells == len("hello") + 4 + 1 + 3


def test_wrong_guesses_are_cut(bench: Bench) -> None:
    """And what was right before them stays."""
    sequence = create_sequence("hello")
    (draft,) = bench.draft(sequence)
    sequence.token_ids += [*draft[:2].encode(), 33]
    assert bench.draft(sequence) == [bench.says(sequence)]
    assert [call.num_tokens for call in bench.runner.memory.calls if call.name == "truncate"] == [len("hello") + 2]


def test_a_pause_is_caught_up_with(bench: Bench) -> None:
    """Whatever has come since it was asked last."""
    sequence = create_sequence("hello")
    bench.draft(sequence)
    sequence.token_ids += b"! How are you today"
    assert bench.draft(sequence) == [bench.says(sequence)]


def test_a_long_prompt_is_followed_in_pieces() -> None:
    """Nobody waits for all of it; there is no draft before."""
    bench = Bench(max_batch_tokens=16)
    long, short = create_sequence("l" * 40), create_sequence("short")
    drafts = [bench.draft(long, short) for _ in range(3)]
    assert drafts == [["", bench.says(short)]] * 2 + [[bench.says(long), bench.says(short)]]


def test_an_end_is_not_drafted(bench: Bench) -> None:
    """Nothing follows it."""
    assert bench.draft(create_sequence("script")) == ["ed"]


def test_tokens_that_only_the_draft_model_has(bench: Bench) -> None:
    """The target could not compute them."""
    drafter = DraftModel(FakeRunner(), max_batch_tokens=64, num_target_tokens=ord("a"))
    assert drafter.propose([create_sequence("hello")], [4]) == [[]]


def test_tokens_that_only_the_target_has(bench: Bench) -> None:
    """Whoever has one gets no more drafts."""
    sequence = create_sequence("hello")
    sequence.token_ids.append(END + 7)
    assert bench.draft(sequence) == [""]
    sequence.token_ids.append(33)
    assert bench.draft(sequence) == [""]
    assert bench.steps() == []


def test_a_sequence_as_long_as_the_model(bench: Bench) -> None:
    """There is no place for a draft behind it."""
    bench.runner.max_model_len = 7
    assert bench.draft(create_sequence("hello")) == [bench.says(create_sequence("hello"), 2)]
    assert bench.draft(create_sequence("hello there")) == [""]


def test_the_next_turn_finds_the_last_one(bench: Bench) -> None:
    """What was computed for a sequence that is over stays."""
    first = create_sequence("a conversation")
    (draft,) = bench.draft(first)
    bench.drafter.forget(first)
    cells = bench.runner.memory.num_used_cells
    bench.draft(create_sequence("a conversation" + draft[:3] + "?"), max_tokens=1)
    assert bench.runner.memory.num_used_cells == cells + 1


def test_who_is_not_asked_about_gives_way() -> None:
    """To those who are, and is followed anew when its turn comes."""
    bench = Bench(num_slots=1)
    first, second = create_sequence("hello"), create_sequence("world")
    assert bench.draft(first) == [bench.says(first)]
    assert bench.draft(second) == [bench.says(second)]
    assert bench.draft(first) == [bench.says(first)]
    assert bench.draft(first, second) == [bench.says(first), ""]


def test_no_room() -> None:
    """Two that do not fit together: one gets its draft."""
    bench = Bench(num_cells=40)
    first, second = create_sequence("a" * 25), create_sequence("b" * 26)
    assert bench.draft(first, second) == [bench.says(first), ""]
    assert bench.draft(second) == [bench.says(second)]


def test_seeds_begin_with_an_empty_cache(bench: Bench) -> None:
    """Equal drafts for equal seeds, as far as nobody else drafts."""
    bench.draft(create_sequence("hello"))
    (shadow,) = bench.drafter._shadows.values()
    bench.drafter._release(shadow)
    bench.draft(create_sequence("hello", seed=1), max_tokens=1)
    assert bench.runner.memory.num_used_cells == len("hello")


@pytest.mark.parametrize("error", [CacheFullError("full"), DecodeError("broken")])
def test_a_step_that_fails(error: DecodeError, bench: Bench) -> None:
    """What was computed cannot be trusted. A full cache is no more than no draft; anything else is told."""
    sequence = create_sequence("hello")
    bench.draft(sequence)
    sequence.token_ids.append(33)
    bench.runner.failures.append(None)
    bench.runner.failures.append(error)
    if isinstance(error, CacheFullError):
        assert bench.draft(sequence) == [""]
    else:
        with pytest.raises(DecodeError, match="broken"):
            bench.draft(sequence)
    assert bench.runner.memory.num_used_cells == 0
    assert bench.draft(sequence) == [bench.says(sequence)]


class Words(NamedTuple):
    """A vocabulary, as far as it is compared."""

    words: list[bytes]
    kind: int = 1

    def texts(self) -> list[bytes]:
        return self.words


WORDS = [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("other", [WORDS, [b"?"] * 5 + WORDS[5:], WORDS[:200], [*WORDS, b"padding"]])
def test_same_vocabulary(other: list[bytes]) -> None:
    """But for special tokens at its beginning, and padding at its end."""
    check_same_vocabulary(Words(WORDS), Words(other))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Words(WORDS, kind=2), "another kind of tokenizer"),
        (Words(WORDS[:100]), "100 tokens instead of 300"),
        (Words([*WORDS[:50], b"fifty", *WORDS[51:]]), "token 50 is b'fifty' instead of b'50'"),
    ],
)
def test_another_vocabulary(other: Words, difference: str) -> None:
    """The start ends with what is different."""
    with pytest.raises(ConfigError, match=f"^DRAFT_MODEL has another vocabulary than MODEL: {difference}"):
        check_same_vocabulary(Words(WORDS), other)
