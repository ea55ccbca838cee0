"""A projector without arithmetic: a file of n bytes takes n tokens, between two brackets."""

import threading

import numpy as np

from handler.engine.media_run import MediaRun
from handler.engine.prompt import MediaPrompt, MixedText
from handler.errors import InvalidRequestError
from tests.engine.fakes import TIMEOUT

DAMAGED = b"damaged"
WIDTH = 4


class FakeProjector:
    """Notes what it was asked to encode. With `hold()` each file waits for `permit()`."""

    sees, hears = True, False

    def __init__(self, *, is_causal: bool = True) -> None:
        self.encoded: list[bytes] = []
        self.is_closed = False
        self._is_causal = is_causal
        self._permits: threading.Semaphore | None = None

    def hold(self) -> None:
        self._permits = threading.Semaphore(0)

    def permit(self, num_files: int = 1) -> None:
        assert self._permits is not None
        self._permits.release(num_files)

    def encode(self, data: bytes) -> list[list[int] | MediaRun]:
        self.encoded.append(data)
        if self._permits is not None:
            assert self._permits.acquire(timeout=TIMEOUT), "no permit came"
        if data == DAMAGED:
            raise InvalidRequestError("The image is damaged.")
        run = MediaRun(0, np.zeros((len(data), WIDTH), np.float32), self._is_causal)
        return [[ord("[")], run, [ord("]")]]

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True


def illustrated(*parts: str | bytes) -> MediaPrompt:
    """Texts and files in their order."""
    texts, media = [""], []
    for part in parts:
        if isinstance(part, bytes):
            media.append(part)
            texts.append("")
        else:
            texts[-1] += part
    return MediaPrompt(tuple(MixedText(text, ()) for text in texts), tuple(media))
