"""What is known of an image before it is decoded."""

import struct

import pytest

from handler.errors import InvalidRequestError
from handler.media.image_header import ImageHeader, read_image_header
from tests.images import png

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 30, 20)
GIF = b"GIF89a" + struct.pack("<HH", 30, 20)
THUMBNAIL = b"\xff\xe1\x00\x0b\xff\xc0\x00\x00\x00\x01\x00\x01\x00"  # a segment with another frame's marker in it
JPEG = b"\xff\xd8" + THUMBNAIL + b"\xff\xff\xc2\x00\x11\x08" + struct.pack(">HH", 20, 30)
WEBP_LOSSY = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 30 | 1 << 14, 20)
WEBP_LOSSLESS = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", 29 | 19 << 14)
WEBP_EXTENDED = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + bytes([29, 0, 0, 19, 0, 0])
IMAGES = {
    "png": [PNG],
    "gif": [GIF],
    "jpeg": [JPEG],
    "webp": [WEBP_LOSSY, WEBP_LOSSLESS, WEBP_EXTENDED],
}
ALL = [(name, data) for name, images in IMAGES.items() for data in images]


@pytest.mark.parametrize(("name", "data"), ALL)
def test_header(name: str, data: bytes) -> None:
    """Format and size are read from the first bytes."""
    assert read_image_header(data, 600) == ImageHeader(name, 30, 20)


@pytest.mark.parametrize("data", [data for _, data in ALL])
def test_too_many_pixels(data: bytes) -> None:
    """An image that says that it has too many pixels is refused."""
    with pytest.raises(InvalidRequestError, match="30 x 20"):
        read_image_header(data, 599)


@pytest.mark.parametrize("data", [data for _, data in ALL])
def test_cut(data: bytes) -> None:
    """An image cut anywhere within its header is refused, not a crash."""
    for length in range(len(data)):
        with pytest.raises(InvalidRequestError):
            read_image_header(data[:length], 600)


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"BM" + bytes(50), b"\xff\xd8\xff\xd9", PNG[:16] + bytes(8)])
def test_other(data: bytes) -> None:
    """Other formats, ends without a frame, and images without pixels are refused."""
    with pytest.raises(InvalidRequestError):
        read_image_header(data, 600)


def test_jpeg_terminates() -> None:
    """Millions of segments that claim no length do not hold the reader."""
    with pytest.raises(InvalidRequestError):
        read_image_header(b"\xff\xd8" + b"\xff\xe0\x00\x00" * 1_000_000, 600)


@pytest.mark.parametrize(
    ("width", "height", "is_taken"), [(200, 1, True), (1, 200, True), (201, 1, False), (1, 201, False)]
)
def test_sides_that_are_too_unequal(width: int, height: int, is_taken: bool) -> None:
    """A thin line would become more tokens than the largest picture."""
    data = png(width=width, height=height)
    if is_taken:
        assert read_image_header(data, 1000).width == width
    else:
        with pytest.raises(InvalidRequestError, match="200 times the other"):
            read_image_header(data, 1000)
