"""Whether a stream came to its own end, by its path's rules: a stream that merely stops is a broken answer. Pure."""

import re

from local_gateway.wire.sse import Event

COMPLETIONS = ("/chat/completions", "/completions")
PATHS = (*COMPLETIONS, "/responses", "/messages")  # whose streams have an end that can be recognized
LAST_TYPES = {
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "message_stop",
    "error",
}
LAST_NAME = re.compile(rb'"(?:response\.(?:completed|incomplete|failed|cancelled)|message_stop|error)"')
# A reason to finish that says something. In a text the quotes are behind backslashes.
FINISH = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
FIRST_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*\{[^{}\[\]]*"index"\s*:\s*0\s*[,}]')


class StreamEnd:
    """Watches the events of one stream. Most are judged by their bytes: parsing each would cost more than the relay."""

    def __init__(self, path: str) -> None:
        self._is_completion = path in COMPLETIONS
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._is_over = path not in PATHS

    def see(self, event: Event) -> None:
        """The next event of the stream."""
        if self._is_over:
            return
        if event.is_done:
            self._is_over = True
        elif self._is_completion:
            self._see_choices(event)
        elif LAST_NAME.search(event.raw) is not None:
            chunk = event.chunk
            self._is_over = isinstance(chunk, dict) and chunk.get("type") in LAST_TYPES

    def saw_text(self) -> None:
        """The next events are nothing but text of the first choice."""
        self._begun.add(0)

    def saw_error(self) -> None:
        """The target says that it failed: that is an end too."""
        self._is_over = True

    def may_fail(self, event: Event) -> bool:
        """Whether an event is worth parsing in search of an error. Other paths' own events say what went wrong."""
        return self._is_completion and (b'"error"' in event.raw or b'"choices"' not in event.raw)

    @property
    def is_complete(self) -> bool:
        """Whether it may end here: after its last event, or when every choice that has begun has also finished."""
        return self._is_over or (self._is_completion and bool(self._finished) and self._begun <= self._finished)

    def _see_choices(self, event: Event) -> None:
        if not event.is_parsed and FINISH.search(event.raw) is None and FIRST_CHOICE.search(event.raw) is not None:
            self._begun.add(0)
            return
        chunk = event.chunk
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        for choice in choices if isinstance(choices, list) else []:
            index = choice.get("index", 0) if isinstance(choice, dict) else 0
            if not isinstance(index, int):
                continue
            self._begun.add(index)
            if isinstance(choice, dict) and choice.get("finish_reason"):
                self._finished.add(index)
