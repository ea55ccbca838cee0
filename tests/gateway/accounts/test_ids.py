"""Ids are drawn ahead, and still nowhere the same."""

import os

from local_gateway.accounts.usage import NUM_DRAWN, new_id


def test_ids_differ_beyond_what_is_drawn_at_once() -> None:
    """Each is 32 hexadecimal digits, and none comes twice."""
    ids = [new_id() for _ in range(3 * NUM_DRAWN)]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)


def test_a_forked_process_has_others() -> None:
    """What was drawn before a fork is used on one side of it."""
    new_id()
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 32).decode()
    os.close(reading)
    os.close(writing)
    assert theirs not in {new_id() for _ in range(NUM_DRAWN)}
