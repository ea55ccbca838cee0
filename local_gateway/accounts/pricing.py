"""What a request costs: after it exactly, before it at a guess. Pure arithmetic, in the currency of the prices."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from local_gateway.accounts.usage import BYTES_PER_TOKEN, Usage
from local_gateway.config.settings import Price

DEFAULT_COMPLETION_TOKENS = 2048  # of a request that names no limit
MAX_COMPLETION_TOKENS = 1_000_000  # more is a way to say "no limit"
EXPECTED_SECONDS = 30.0  # for which a target works on a request
MEDIA_TOKENS = 1000  # of an image or a sound within the body
MEDIA = re.compile(rb'(?<=;base64,)[^"]*|(?<="data":")[^"]*')  # its bytes say nothing about tokens
WITHOUT_COMPLETION = {"/embeddings", "/moderations"}


class Estimate(NamedTuple):
    """What a request may use, before it has run."""

    num_prompt_tokens: int
    num_completion_tokens: int
    cost: float

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_completion_tokens


def cost_of(usage: Usage, price: Price, seconds: float) -> float:
    """`seconds`: for how long the target worked on it; where it does not say, how long the answer took."""
    num_cached = min(usage.num_cached_tokens, usage.num_prompt_tokens)
    cached_price = price.prompt if price.cached is None else price.cached
    tokens = (
        (usage.num_prompt_tokens - num_cached) * price.prompt
        + num_cached * cached_price
        + usage.num_completion_tokens * price.completion
    )
    return tokens / 1_000_000 + seconds * price.gpu_second


def estimate(path: str, body: bytes, fields: Mapping[str, Any], prices: Iterable[Price]) -> Estimate:
    """`body` is the request's, `fields` what is in it, `prices` those of all that may answer: the dearest counts."""
    num_prompt = estimate_prompt_tokens(body)
    num_completion = 0 if path in WITHOUT_COMPLETION else _max_completion_tokens(fields)
    usage = Usage(num_prompt, 0, num_completion)
    cost = max((cost_of(usage, price, EXPECTED_SECONDS) for price in prices), default=0.0)
    return Estimate(num_prompt, num_completion, cost)


def estimate_prompt_tokens(body: bytes) -> int:
    media = MEDIA.findall(body)
    num_text_bytes = len(body) - sum(map(len, media))
    return num_text_bytes // BYTES_PER_TOKEN + len(media) * MEDIA_TOKENS


def _max_completion_tokens(fields: Mapping[str, Any]) -> int:
    limits = (_count(fields.get(name)) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    limit = next((limit for limit in limits if limit is not None), DEFAULT_COMPLETION_TOKENS)
    return min(limit * (_count(fields.get("n")) or 1), MAX_COMPLETION_TOKENS)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
