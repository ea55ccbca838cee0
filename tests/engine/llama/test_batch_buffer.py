"""A batch as llama.cpp gets it."""

import random

import pytest

from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.cache.slot import Slot
from handler.engine.llama.batch_buffer import PAD, BatchBuffer
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from tests.engine.fakes import ByteVocabulary
from tests.seeds import seeds

CAPACITY = 400

Row = tuple[int, int, int, int]  # seq_id, position, token, whether it has logits


def create_item(rng: random.Random, seq_id: int, num_tokens: int) -> ScheduledSequence:
    """The latest tokens of a sequence, or some before its last one."""
    token_ids = [rng.randrange(1, 200) for _ in range(num_tokens + rng.randrange(5))]
    sequence = Sequence(token_ids, SamplingParams(), vocabulary=ByteVocabulary(), max_num_tokens=300)
    start = len(token_ids) - num_tokens - rng.choice([0, 0, 0, 1])
    sequence.slot = Slot(seq_id)
    return ScheduledSequence(sequence, max(0, start), num_tokens)


def create_batch(rng: random.Random, lengths: list[int], num_padded: int) -> Batch:
    seq_ids = rng.sample(range(40), len(lengths) + num_padded)
    items = [create_item(rng, seq_id, length) for seq_id, length in zip(seq_ids, lengths, strict=False)]
    padding = [Slot(seq_id, token_ids=[1] * rng.randrange(9)) for seq_id in seq_ids[len(lengths) :]]
    return Batch(sorted(items, key=lambda item: item.slot.seq_id), padding)


def filled(buffer: BatchBuffer) -> list[Row]:
    struct = buffer.struct
    places = range(buffer.num_tokens)
    return [(struct.seq_id[i][0], struct.pos[i], struct.token[i], struct.logits[i]) for i in places]


def expected(batch: Batch) -> tuple[list[Row], list[int]]:
    """Token by token: what is in the batch, and which of the rows of logits are drawn from."""
    rows: list[tuple[Row, bool]] = []
    for item in batch.items:
        last = item.start + item.num_rows - 1
        for position, token_id in enumerate(item.token_ids, start=item.start):
            is_drawn = item.catches_up and position == last
            rows.append(((item.slot.seq_id, position, token_id, int(is_drawn)), is_drawn))
    rows += [((slot.seq_id, slot.num_tokens, PAD, 1), False) for slot in batch.padding_slots]
    if batch.padding_slots:
        rows.sort(key=lambda row: row[0][0])
    with_logits = [is_drawn for (*_, has_logits), is_drawn in rows if has_logits]
    return [row for row, _ in rows], [index for index, is_drawn in enumerate(with_logits) if is_drawn]


@pytest.mark.parametrize("seed", seeds())
def test_every_token_is_where_it_belongs(seed: int) -> None:
    """With prompts and without, padded and not; and nothing of the batch before is left."""
    rng = random.Random(seed)
    buffer = BatchBuffer(CAPACITY)
    for _ in range(6):
        is_decoding = rng.random() < 0.5
        lengths = [1 if is_decoding else rng.randrange(1, 9) for _ in range(rng.randrange(1, 12))]
        batch = create_batch(rng, lengths, num_padded=rng.choice([0, 0, 3]))
        buffer.fill(batch)
        assert (filled(buffer), buffer.rows) == expected(batch)
        assert buffer.scored == []


def test_a_step_of_answers_is_known_by_its_tokens() -> None:
    """One each, whose logits are drawn from, and no others."""
    params = SamplingParams(num_prompt_logprobs=0)
    sequence = Sequence([1, 2, 3], params, vocabulary=ByteVocabulary(), max_num_tokens=300)
    sequence.slot = Slot(7)
    assert Batch([ScheduledSequence(sequence, 2, 1)]).is_decoding
    assert not Batch([ScheduledSequence(sequence, 1, 1)]).is_decoding
    assert not Batch([ScheduledSequence(sequence, 1, 2)]).is_decoding
    assert not Batch([ScheduledSequence(sequence, 2, 1, [4])]).is_decoding
    assert not ScheduledSequence(sequence, 2, 1).scored
