"""What the prefill lane computes next: full parts, short prompts first, long ones in time, within streams and cells."""

import random

from handler.engine.prefill_queue import PASSING, Piece, Prefill, PrefillQueue
from tests.engine.fakes import FakeRunner
from tests.engine.test_scheduler import create_sequence

PART = 128
RUNNER = FakeRunner()


def prefill_of(num_tokens: int) -> Prefill:
    return Prefill(create_sequence(RUNNER, "prompt"), list(range(num_tokens)))


def queue_of(*lengths: int, num_streams: int = 8, num_cells: int = 4000) -> tuple[PrefillQueue, list[Prefill]]:
    queue = PrefillQueue(num_streams, num_cells)
    prefills = [prefill_of(length) for length in lengths]
    for prefill in prefills:
        queue.add(prefill)
    return queue, prefills


def compute(queue: PrefillQueue, pieces: list[Piece]) -> list[Prefill]:
    """Take over what a part computes; the prompts that are finished."""
    finished = []
    for prefill, _, start, token_ids in pieces:
        assert token_ids == prefill.token_ids[start : start + len(token_ids)]
        assert start == prefill.num_computed
        prefill.num_computed += len(token_ids)
        if not prefill.num_left:
            queue.remove(prefill)
            finished.append(prefill)
    return finished


def all_parts(queue: PrefillQueue, num_tokens: int = PART) -> list[list[Piece]]:
    parts = []
    while pieces := queue.next_part(num_tokens):
        parts.append(pieces)
        compute(queue, pieces)
    return parts


def test_parts_are_full_whatever_the_lengths() -> None:
    """Counted: no token twice, none for padding, and no more parts than the tokens need."""
    rng = random.Random(1)
    lengths = [int(min(900, max(20, rng.lognormvariate(4.8, 0.8)))) for _ in range(64)]
    queue, _ = queue_of(*lengths)

    sizes = [sum(len(piece.token_ids) for piece in pieces) for pieces in all_parts(queue)]

    assert sizes == [PART] * (sum(lengths) // PART) + [sum(lengths) % PART]


def test_a_short_prompt_passes_a_long_one() -> None:
    queue, [long] = queue_of(1000)
    compute(queue, queue.next_part(PART))
    short = prefill_of(50)
    queue.add(short)

    assert [(piece.prefill, len(piece.token_ids)) for piece in queue.next_part(PART)] == [(short, 50), (long, 78)]


def test_a_long_prompt_is_not_passed_for_ever() -> None:
    """Though short ones come as fast as they are computed."""
    queue, [long] = queue_of(1000)
    num_tokens = 0
    while long.num_left:
        for _ in range(PART // 64):
            queue.add(prefill_of(64))
        pieces = queue.next_part(PART)
        num_tokens += PART
        compute(queue, pieces)

    assert num_tokens <= (PASSING + 1) * 1000


def test_a_prompt_without_room_is_not_passed_for_ever_either() -> None:
    """Nothing that ranks behind it begins before it, so cells become free."""
    queue, [first, long] = queue_of(2500, 3000)
    compute(queue, queue.next_part(PART))
    for _ in range(200):
        queue.add(prefill_of(100))
        held = [prefill for prefill in (first, long) if prefill.stream is not None and prefill.num_left]
        assert sum(len(prefill.token_ids) for prefill in held) <= 4000
        compute(queue, queue.next_part(PART))

    assert not first.num_left
    assert not long.num_left


def test_streams_are_used_by_one_prompt_at_a_time() -> None:
    queue, prefills = queue_of(*[40] * 20, num_streams=3)
    finished = []
    while pieces := queue.next_part(PART):
        streams = [piece.stream for piece in pieces]
        assert len(streams) == len(set(streams)) <= 3
        finished += compute(queue, pieces)

    assert set(finished) == set(prefills)


def test_a_cancelled_prompt_gives_its_stream_back() -> None:
    queue, [one, other] = queue_of(400, 500, num_streams=1)
    compute(queue, queue.next_part(PART))
    one.is_cancelled = True
    queue.remove_cancelled()

    assert [piece.prefill for piece in queue.next_part(PART)] == [other]
