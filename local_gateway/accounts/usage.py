"""What a request used: the counts, the record that is kept of it, and the meter that reads them off an answer."""

import os
import re
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, NamedTuple

import orjson

from local_gateway.wire.answer import Sharing
from local_gateway.wire.reported_usage import ReportedUsage, may_tell_usage, usage_in
from local_gateway.wire.sse import data_of, split_events
from local_gateway.wire.text_events import TextBlock

RequestOutcome = Literal["ok", "client_error", "target_error", "client_left", "cancelled", "refused", "stopped"]

BYTES_PER_TOKEN = 4  # what text has on average, in the estimates
ID_BYTES = 16
NUM_DRAWN = 256  # ids at once

_STRING = rb'"\s*:\s*"((?:[^"\\]++|\\.)++)"'
# What a model wrote, where it stands in the answers of each path. In a text these names are behind \" and do not match.
TEXTS = {
    "/chat/completions": re.compile(rb'"[acr](?:rguments|ontent|efusal|easoning(?:_content)?)' + _STRING),
    "/completions": re.compile(rb'"text' + _STRING),
    "/responses": re.compile(rb'"(?:delta|text|arguments)' + _STRING),
    "/messages": re.compile(rb'"(?:text|thinking|partial_json)' + _STRING),
    "/infill": re.compile(rb'"content' + _STRING),
}
READ_ONLY = ("/embeddings", "/rerank")  # the model reads a prompt, and writes nothing
RESPONSES_DELTAS = re.compile(rb'"delta' + _STRING)  # its later events repeat the text


class Usage(NamedTuple):
    """The tokens of one request."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt's
    num_completion_tokens: int = 0
    is_estimated: bool = False  # at least one of them is our guess

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_completion_tokens


_ids: list[str] = []  # drawn ahead: a call into the system for each would cost more than the rest of a record
os.register_at_fork(after_in_child=_ids.clear)  # or two processes would give the same ones


def new_id() -> str:
    """32 hexadecimal digits, different each time and in each process, and not to be guessed from earlier ones."""
    try:
        return _ids.pop()
    except IndexError:
        *drawn, last = _draw()
        _ids.extend(drawn)
        return last


def _draw() -> list[str]:
    digits = os.urandom(ID_BYTES * NUM_DRAWN).hex()
    return [digits[at : at + 2 * ID_BYTES] for at in range(0, len(digits), 2 * ID_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One request, as it is remembered. It holds no prompt, no answer and no key."""

    id: str = field(default_factory=new_id)
    time: float  # of its arrival, in seconds since 1970
    request_id: str
    key_id: str = ""  # empty: the gateway has no keys
    key_name: str = ""
    end_user: str = ""  # of the key's application, as the request says; empty if it does not
    alias: str = ""  # the model's configured name; empty if there is none
    model: str = ""  # as the client asked
    target: str = ""  # that answered; empty: none did
    endpoint: str = ""  # of RunPod's, whose workers made these tokens for this request
    path: str
    is_stream: bool = False
    status: int  # that the client was sent
    outcome: RequestOutcome
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    is_estimated: bool = False
    cost: float = 0.0  # exactly what the key's admission was settled with
    execution_seconds: float | None = None  # for which a GPU is paid; None: the target does not say
    queue_seconds: float | None = None
    first_token_seconds: float | None = None  # None: there was no content
    total_seconds: float = 0.0
    num_attempts: int = 0
    is_cold: bool = False
    sharing: Sharing = ""


class UsageMeter:
    """Reads the tokens of one answer off its bytes on their way to the client. Lives in the request's task.

    Counts are the target's own where it gives them; otherwise they are estimated from the request's size and from the
    text so far. Before the first byte of the answer the usage is zero. It knows no prices.
    """

    def __init__(self, path: str, *, wants_usage_chunk: bool, num_prompt_tokens: int = 0) -> None:
        """`num_prompt_tokens` is a guess, for the case that the target does not count."""
        self._wants_usage_chunk = wants_usage_chunk
        self.num_prompt_tokens = num_prompt_tokens
        self._texts = TEXTS.get(path)
        self._deltas = RESPONSES_DELTAS if path == "/responses" else self._texts
        self._is_counted_path = self._texts is not None or path in READ_ONLY
        self._reported: ReportedUsage | None = None
        self._has_begun = False
        self._num_texts = 0
        self._num_text_bytes = 0

    def watch(self, block: bytes) -> bytes:
        """Takes whole events of a stream; returns them as the client is to get them.

        That is without the chunk that holds nothing but usage, unless the client asked for it; else byte for byte.
        """
        self._has_begun = True
        if isinstance(block, TextBlock):  # nothing else is in it, and it was counted when that was found
            self._num_texts += block.num_texts
            self._num_text_bytes += block.num_text_bytes
            return block
        if may_tell_usage(block):
            return self._read_events(block)
        if self._deltas:
            self._count(self._deltas, block)
        return block

    def read_body(self, body: bytes) -> None:
        """A whole answer that is no stream."""
        self._has_begun = True
        if may_tell_usage(body):
            self._read_usage(body)
        if self._reported is None and self._texts:
            self._count(self._texts, body)

    @property
    def usage(self) -> Usage:
        if self._reported is not None:
            return self._complete(self._reported)
        if not self._has_begun or not self._is_counted_path:
            return Usage()
        return Usage(self.num_prompt_tokens, 0, self._num_estimated, is_estimated=True)

    @property
    def _num_estimated(self) -> int:
        """Most targets send one token an event; others collect them."""
        return max(self._num_texts, ceil(self._num_text_bytes / BYTES_PER_TOKEN))

    def _count(self, pattern: re.Pattern[bytes], block: bytes) -> None:
        texts = pattern.findall(block)
        self._num_texts += len(texts)
        self._num_text_bytes += sum(map(len, texts)) - 4 * block.count(b"\\u")  # a \u0416 is two bytes of UTF-8

    def _read_events(self, block: bytes) -> bytes:
        return b"".join(event for event in split_events(block) if self._is_for_client(event))

    def _is_for_client(self, event: bytes) -> bool:
        if self._deltas:
            self._count(self._deltas, event)
        body = self._read_usage(data_of(event) or b"") if may_tell_usage(event) else None
        return self._wants_usage_chunk or body is None or body.get("choices") != []

    def _read_usage(self, data: bytes) -> dict[str, Any] | None:
        """The body, if it tells the usage."""
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None  # the client gets it as it is
        usage = usage_in(body)
        if usage is None:
            return None
        self._reported = usage if self._reported is None else self._reported.merged(usage)
        assert isinstance(body, dict)
        return body

    def _complete(self, reported: ReportedUsage) -> Usage:
        """An explicit 0 is a count; only a missing one is estimated."""
        num_prompt, num_cached, num_completion = reported
        is_estimated = num_prompt is None or (num_completion is None and self._num_estimated > 0)
        num_prompt = self.num_prompt_tokens if num_prompt is None else num_prompt
        num_completion = self._num_estimated if num_completion is None else num_completion
        return Usage(num_prompt, min(num_cached or 0, num_prompt), num_completion, is_estimated)
