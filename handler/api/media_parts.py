"""Images and sounds in a chat's messages: taken out before a template renders them, found again in what it wrote."""

import re
import secrets
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from handler.api.messages import Message
from handler.engine.prompt import MixedText
from handler.errors import InvalidRequestError, TemplateError

MAX_MEDIA = 64  # of a request

MediaKind = Literal["image", "sound"]
KINDS: dict[str, MediaKind] = {"image_url": "image", "input_audio": "sound"}  # by the type of a message's part


class MediaPart(NamedTuple):
    """An image or a sound as a request names it."""

    kind: MediaKind
    url: str
    param: str  # the part, for errors


class MediaText(NamedTuple):
    """A rendered conversation with media between its texts: one text more than there are media."""

    texts: tuple[MixedText, ...]
    media: tuple[MediaPart, ...]


class TakenMedia:
    """A conversation with a mark in the place of each image and sound. No client knows a mark before: it is drawn for
    this conversation, so no text of a message is taken for one."""

    def __init__(self, messages: list[Message]) -> None:
        """Raises InvalidRequestError for more of them than a request may have."""
        self.media: list[MediaPart] = []
        self._secret = secrets.token_hex(16)
        self.messages = [self._take(message, f"messages[{i}].content") for i, message in enumerate(messages)]
        if len(self.media) > MAX_MEDIA:
            raise InvalidRequestError(f"'messages' may hold at most {MAX_MEDIA} images and sounds", param="messages")

    def find(self, prompt: MixedText) -> MixedText | MediaText:
        """The rendered conversation with its media. Raises TemplateError where the template leaves one out."""
        if not self.media:
            return prompt
        marks = list(re.finditer(rf"\[{self._secret} (\d+)\]", prompt.text))
        shown = [int(mark[1]) for mark in marks]
        if set(shown) != set(range(len(self.media))):
            raise TemplateError("The chat template does not show all images of this conversation.", param="messages")
        starts, ends = [0, *(mark.end() for mark in marks)], [*(mark.start() for mark in marks), len(prompt.text)]
        texts = [_part(prompt, start, end) for start, end in zip(starts, ends, strict=True)]
        return MediaText(tuple(texts), tuple(self.media[place] for place in shown))

    def _take(self, message: Message, param: str) -> Message:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        return {**message, "content": [self._mark(part, f"{param}[{j}]") for j, part in enumerate(content)]}

    def _mark(self, part: Any, param: str) -> Any:
        kind = KINDS.get(part["type"])
        if kind is None:
            return part
        self.media.append(MediaPart(kind, _url(part[part["type"]]), param))
        return {"type": "media_marker", "text": f"[{self._secret} {len(self.media) - 1}]"}


def refuse_media(messages: list[Message], kinds: Collection[MediaKind]) -> None:
    """For a model that takes these kinds alone: InvalidRequestError for the first part of another."""
    for i, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = KINDS.get(part["type"])
            if kind is not None and kind not in kinds:
                param = f"messages[{i}].content"
                only = " and ".join(["text", *(name for name, known in KINDS.items() if known in kinds)])
                raise InvalidRequestError(
                    f"'{param}' may hold parts of type {only} only: this model reads no others "
                    f'(got "{part["type"]}")',
                    param=param,
                )


def _url(value: Any) -> str:
    """OpenAI has an object for an image, of which some clients send the URL alone; a sound is bare base64."""
    if isinstance(value, str):
        return value
    if "url" in value:
        return str(value["url"])
    data = str(value["data"])
    return data if data[:5] == "data:" else f"data:audio/wav;base64,{data}"


def _part(prompt: MixedText, start: int, end: int) -> MixedText:
    literals = (span for span in prompt.literals if start <= span[0] and span[1] <= end)
    return MixedText(prompt.text[start:end], tuple((first - start, last - start) for first, last in literals))
