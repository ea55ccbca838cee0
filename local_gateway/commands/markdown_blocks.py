"""Markdown that is still being written, in blocks: which of it is finished, and can be shown for good. Pure."""

import re

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class MarkdownBlocks:
    """Cuts a growing text between paragraphs, lists and code, never inside. The blocks together are the text.

    A block is over when one begins that cannot belong to it: after an empty line, and not indented.
    """

    def __init__(self) -> None:
        self.rest = ""  # the block that is not over yet
        self._num_seen = 0  # characters of `rest`, all of whole lines, that have been looked at
        self._fence = ""  # of the code that we are in
        self._may_end = False  # the line before was empty, or ended code

    def feed(self, text: str) -> list[str]:
        """The blocks that are over now."""
        self.rest += text
        blocks = []
        while (end := self.rest.find("\n", self._num_seen)) >= 0:
            line = self.rest[self._num_seen : end + 1]
            if self._begins_block(line):
                blocks.append(self.rest[: self._num_seen])
                self.rest, self._num_seen = self.rest[self._num_seen :], 0
            self._look_at(line)
            self._num_seen += len(line)
        return blocks

    def _begins_block(self, line: str) -> bool:
        return self._may_end and not line[0].isspace()

    def _look_at(self, line: str) -> None:
        match = FENCE.match(line)
        if self._fence:
            ends_code = match is not None and match[1].startswith(self._fence)
            self._may_end, self._fence = ends_code, "" if ends_code else self._fence
        else:
            self._may_end = not line.strip()
            self._fence = match[1] if match else ""
