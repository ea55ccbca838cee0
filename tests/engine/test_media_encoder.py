"""Images are encoded once, in a thread that nothing else waits for."""

import asyncio
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from handler.engine import media_encoder
from handler.engine.media_encoder import MAX_WAITING, Media, MediaEncoder
from handler.engine.media_run import MAX_KEY, MediaRun
from handler.errors import ContextLengthError, InvalidRequestError, QueueFullError, UnavailableError
from tests.engine.fake_projector import DAMAGED, WIDTH, FakeProjector
from tests.waiting import eventually

FLOAT = 4  # bytes
LONG = 1000  # tokens


@contextmanager
def encoding(projector: FakeProjector, max_bytes: int = 1000, max_held_bytes: int = 10_000) -> Iterator[MediaEncoder]:
    encoder = MediaEncoder(projector, max_bytes, max_held_bytes)
    try:
        yield encoder
    finally:
        encoder.close()
    assert projector.is_closed


def key(media: Media) -> int:
    (run,) = (part for part in media if isinstance(part, MediaRun))
    return run.key


async def test_each_image_is_encoded_once() -> None:
    """Also where two requests bring it at the same time."""
    projector = FakeProjector()
    with encoding(projector) as encoder:
        (cat, dog), (again,) = await asyncio.gather(
            encoder.encode([b"cat", b"dog"], LONG), encoder.encode([b"cat"], LONG)
        )

    assert projector.encoded == [b"cat", b"dog"]
    assert again is cat
    assert key(cat) != key(dog)
    assert min(key(cat), key(dog)) >= 1


async def test_keys_are_ids_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images there have been, and only so many are remembered."""
    monkeypatch.setattr(media_encoder, "MAX_KNOWN", 2)
    with encoding(FakeProjector(), max_bytes=0) as encoder:
        encoder._num_keys = MAX_KEY - 1
        last, first, *_, again, new = await encoder.encode([b"cat", b"dog", b"cow", b"dog", b"cat"], LONG)

    assert (key(last), key(first)) == (MAX_KEY, 1)
    assert key(again) == key(first)
    assert key(new) != key(last)
    (run,) = (part for part in last if isinstance(part, MediaRun))
    struct.pack(f"{run.num_tokens}i", *run.token_ids)


async def test_the_least_recently_used_are_forgotten() -> None:
    """By their embeddings' bytes; what is forgotten has the same key when it comes again."""
    projector = FakeProjector()
    with encoding(projector, max_bytes=2 * 3 * WIDTH * FLOAT) as encoder:
        cat, *_ = await encoder.encode([b"cat", b"dog", b"cat", b"cow", b"cat", b"dog"], LONG)
        (again,) = await encoder.encode([b"cat"], LONG)

    assert projector.encoded == [b"cat", b"dog", b"cow", b"dog"]
    assert key(again) == key(cat)


async def test_one_that_is_larger_than_the_cache() -> None:
    """It is encoded each time, and nothing else is lost for good."""
    projector = FakeProjector()
    with encoding(projector, max_bytes=10) as encoder:
        await encoder.encode([b"cat", b"cat"], LONG)

    assert projector.encoded == [b"cat", b"cat"]


async def test_a_damaged_image_is_the_client_s_fault() -> None:
    """And no other request's."""
    with encoding(FakeProjector()) as encoder:
        with pytest.raises(InvalidRequestError, match="damaged"):
            await encoder.encode([DAMAGED], LONG)
        assert len(await encoder.encode([b"cat"], LONG)) == 1


async def test_too_many_wait() -> None:
    """One more is refused at once; what is cancelled is not begun."""
    projector = FakeProjector()
    projector.hold()
    with encoding(projector) as encoder:
        waiting = [asyncio.ensure_future(encoder.encode([b"%d" % number], LONG)) for number in range(MAX_WAITING)]
        await eventually(lambda: projector.encoded == [b"0"])
        with pytest.raises(QueueFullError):
            await encoder.encode([b"more"], LONG)
        for task in waiting[1:]:
            task.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        projector.permit(MAX_WAITING)
        await waiting[0]
        await encoder.encode([b"again"], LONG)

    assert projector.encoded == [b"0", b"again"]


async def test_what_waits_when_it_is_closed() -> None:
    """It gets the error of a worker that is stopping."""
    projector = FakeProjector()
    projector.hold()
    encoder = MediaEncoder(projector)
    first, second = (asyncio.ensure_future(encoder.encode([data], LONG)) for data in (b"cat", b"dog"))
    await eventually(lambda: projector.encoded == [b"cat"])
    closing = asyncio.ensure_future(asyncio.to_thread(encoder.close))
    await eventually(lambda: encoder._is_closing)
    projector.permit()
    await closing

    assert len(await first) == 1
    with pytest.raises(UnavailableError):
        await second


async def test_more_than_fits_the_context() -> None:
    """Nothing is encoded beyond it, so no request holds more embeddings than a context has."""
    projector = FakeProjector()
    with encoding(projector) as encoder, pytest.raises(ContextLengthError, match="the images alone have more"):
        await encoder.encode([b"cat", b"dog", b"cow"], 5)

    assert projector.encoded == [b"cat", b"dog"]


async def test_what_requests_hold_is_bounded() -> None:
    """New images are refused while it is too much; nothing is counted that no request needs any more."""
    size = 3 * WIDTH * FLOAT
    with encoding(FakeProjector(), max_bytes=0, max_held_bytes=2 * size - 1) as encoder:
        held = await encoder.encode([b"cat", b"dog"], LONG)
        with pytest.raises(QueueFullError, match="fill its memory"):
            await encoder.encode([b"cow"], LONG)
        del held
        await encoder.encode([b"cow"], LONG)
