"""Images in a chat's messages: taken out before a template renders them, and found again in what it wrote."""

import re
import secrets
from typing import Any, NamedTuple

from handler.api.messages import Message
from handler.engine.prompt import MixedText
from handler.errors import InvalidRequestError, TemplateError

MAX_IMAGES = 64  # of a request


class ImagePart(NamedTuple):
    """An image as a request names it."""

    url: str
    param: str  # the part, for errors


class IllustratedText(NamedTuple):
    """A rendered conversation with the images between its texts: one text more than there are images."""

    texts: tuple[MixedText, ...]
    images: tuple[ImagePart, ...]


class TakenImages:
    """A conversation with a mark in the place of each image. No client knows a mark before: it is drawn for this
    conversation, so no text of a message is taken for one."""

    def __init__(self, messages: list[Message]) -> None:
        """Raises InvalidRequestError for more images than a request may have."""
        self.images: list[ImagePart] = []
        self._secret = secrets.token_hex(16)
        self.messages = [self._take(message, f"messages[{i}].content") for i, message in enumerate(messages)]
        if len(self.images) > MAX_IMAGES:
            raise InvalidRequestError(f"'messages' may hold at most {MAX_IMAGES} images", param="messages")

    def find(self, prompt: MixedText) -> MixedText | IllustratedText:
        """The rendered conversation with its images. Raises TemplateError where the template leaves one out."""
        if not self.images:
            return prompt
        marks = list(re.finditer(rf"\[{self._secret} (\d+)\]", prompt.text))
        shown = [int(mark[1]) for mark in marks]
        if set(shown) != set(range(len(self.images))):
            raise TemplateError("The chat template does not show all images of this conversation.", param="messages")
        starts, ends = [0, *(mark.end() for mark in marks)], [*(mark.start() for mark in marks), len(prompt.text)]
        texts = [_part(prompt, start, end) for start, end in zip(starts, ends, strict=True)]
        return IllustratedText(tuple(texts), tuple(self.images[place] for place in shown))

    def _take(self, message: Message, param: str) -> Message:
        content = message.get("content")
        if not isinstance(content, list):
            return message
        return {**message, "content": [self._mark(part, f"{param}[{j}]") for j, part in enumerate(content)]}

    def _mark(self, part: Any, param: str) -> Any:
        if not isinstance(part, dict) or part.get("type") != "image_url":
            return part
        image = part["image_url"]
        self.images.append(ImagePart(image if isinstance(image, str) else image["url"], param))
        return {"type": "media_marker", "text": f"[{self._secret} {len(self.images) - 1}]"}


def refuse_images(messages: list[Message]) -> None:
    """For a model that sees none: InvalidRequestError for the first."""
    for i, message in enumerate(messages):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") == "image_url":
                param = f"messages[{i}].content"
                raise InvalidRequestError(
                    f"'{param}' may hold parts of type text only: this model reads no others (got \"image_url\")",
                    param=param,
                )


def _part(prompt: MixedText, start: int, end: int) -> MixedText:
    literals = (span for span in prompt.literals if start <= span[0] and span[1] <= end)
    return MixedText(prompt.text[start:end], tuple((first - start, last - start) for first, last in literals))
