"""What an image's first bytes say of it: its format and size, known before anything is decoded."""

import struct
from typing import NamedTuple

from handler.errors import InvalidRequestError

# Start of frame of every kind of JPEG; C4, C8 and CC among them are other segments.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
MAX_RATIO = 200  # of an image's sides: projectors take each for at least a row of tokens, however thin it is
MAX_SEGMENTS = 4096  # of a JPEG before its frame; real ones have a few hundred at most
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


class ImageHeader(NamedTuple):
    format: str  # png, jpeg, gif or webp
    width: int  # pixels
    height: int


def read_image_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Raises InvalidRequestError for other formats, damaged headers, images of no or more than `max_pixels` pixels, and
    those whose sides are too unequal: a file of a few kilobytes can say that it has billions of pixels."""
    try:
        header = _header(data)
    except (struct.error, IndexError):
        header = None
    if header is None:
        raise InvalidRequestError("The image is not a whole PNG, JPEG, GIF or WebP.")
    if not 0 < header.width * header.height <= max_pixels:
        raise InvalidRequestError(
            f"The image has {header.width} x {header.height} pixels; 1 to {max_pixels} in all are possible."
        )
    if max(header.width, header.height) > MAX_RATIO * min(header.width, header.height):
        raise InvalidRequestError(
            f"The image has {header.width} x {header.height} pixels; one side may be {MAX_RATIO} times the other."
        )
    return header


def _header(data: bytes) -> ImageHeader | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        return ImageHeader("png", *struct.unpack_from(">II", data, 16))
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ImageHeader("gif", *struct.unpack_from("<HH", data, 6))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    return None


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        sizes = struct.unpack_from("<HBHB", data, 24)
        return ImageHeader("webp", 1 + sizes[0] + (sizes[1] << 16), 1 + sizes[2] + (sizes[3] << 16))
    if kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF)
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    place = 2
    for _ in range(MAX_SEGMENTS):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in JPEG_ALONE:
            place += 2
        elif marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return ImageHeader("jpeg", width, height)
        else:
            place += 2 + max(2, *struct.unpack_from(">H", data, place + 2))
    return None
