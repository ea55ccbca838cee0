"""Bytes written into a request as a data: URL."""

import base64
import binascii

from handler.errors import InvalidRequestError


def is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def read_data_url(text: str, max_bytes: int) -> bytes:
    """The bytes of a base64 data: URL. Its media type is not believed: the bytes say themselves what they are.

    Raises InvalidRequestError where it is not base64, damaged, empty, or more than `max_bytes`, before decoding.
    """
    head, comma, data = text.partition(",")
    if not is_data_url(head) or not comma or not head.lower().endswith(";base64"):
        raise InvalidRequestError("The data: URL has to be base64, as in data:image/png;base64,....")
    if len(data) // 4 * 3 > max_bytes + 3:
        raise InvalidRequestError(f"The data: URL has more than {max_bytes} bytes.")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError("The data: URL's base64 is damaged.") from None
    if not content or len(content) > max_bytes:
        raise InvalidRequestError(f"The data: URL has to have 1 to {max_bytes} bytes.")
    return content
