"""Requests get their turns, and a batch is as full as its limits allow."""

from handler.embedding.fair_queue import FairQueue, Work


def work(*lengths: int) -> Work:
    return Work([[0] * length for length in lengths], lambda _: None)


def test_all_requests_are_in_the_next_batch() -> None:
    """One input of each in turns: a request of many does not hold up one that comes after it."""
    queue = FairQueue(max_tokens=10, max_seqs=4)
    many, one = work(2, 2, 2, 2, 2), work(2)
    queue.add(many)
    queue.add(one)

    batch = [(part.work is one, part.number) for part in queue.next_batch()]
    rest = [part.number for part in queue.next_batch()]

    assert batch == [(False, 0), (True, 0), (False, 1), (False, 2)]
    assert rest == [3, 4]
    assert not queue.next_batch()


def test_a_batch_ends_at_its_tokens() -> None:
    """The input that does not fit is the first of the next batch, so it is not passed for ever."""
    queue = FairQueue(max_tokens=10, max_seqs=9)
    queue.add(work(6, 6, 1))

    assert [part.number for part in queue.next_batch()] == [0]
    assert [part.number for part in queue.next_batch()] == [1, 2]


def test_a_longer_input_is_a_batch_by_itself() -> None:
    """The context has room for it, though batches are smaller."""
    queue = FairQueue(max_tokens=10, max_seqs=9)
    queue.add(work(50, 1))

    assert [len(part.token_ids) for part in queue.next_batch()] == [50]
    assert [len(part.token_ids) for part in queue.next_batch()] == [1]


def test_cancelled_work_is_left_out() -> None:
    """What is not taken yet costs nothing."""
    queue = FairQueue(max_tokens=2, max_seqs=9)
    first, second = work(2, 2), work(2)
    queue.add(first)
    queue.add(second)
    queue.next_batch()
    first.cancel()

    assert [part.work for part in queue.next_batch()] == [second]
    assert not len(queue)
