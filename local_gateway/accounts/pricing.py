"""What a request costs: after it exactly, before it at most. Pure arithmetic, in the currency of the prices.

An estimate takes the largest of all limits that a request names, for all answers that it asks for, so that a client
cannot talk it down.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from local_gateway.accounts.usage import BYTES_PER_TOKEN, Usage
from local_gateway.config.settings import Price, RunpodQueueTarget, Target

DEFAULT_COMPLETION_TOKENS = 2048  # what an answer without a limit is expected to have
UNLIMITED_COMPLETION_TOKENS = 131_072  # what it may have, where the model's context length is not known
MAX_COMPLETION_TOKENS = 1_000_000  # of one answer; more is a way to say "no limit"
MAX_COUNT = 10_000  # of answers that one field asks for
MEDIA_TOKENS = 1000  # of an image or a sound within the body
WITHOUT_COMPLETION = {
    *("/embeddings", "/moderations", "/rerank", "/tokenize", "/detokenize"),
    *("/chat/completions/input_tokens", "/responses/input_tokens", "/messages/count_tokens"),
}
# All names under which targets know the most tokens of one answer.
TOKEN_LIMITS = (
    *("max_completion_tokens", "max_tokens", "max_output_tokens"),
    *("n_predict", "max_new_tokens", "max_tokens_to_sample", "num_predict", "max_length"),
)
NUM_ANSWERS = ("n", "best_of", "num_return_sequences", "candidate_count", "num_generations")
# Names that are read wherever they stand in a body, however they are written: extra_body, options, generationConfig.
HIDDEN_LIMITS = {
    name.replace("_", "") for name in (*TOKEN_LIMITS, "min_tokens", "budget_tokens", "thinking_token_budget")
}
HIDDEN_NUM_ANSWERS = {name.replace("_", "") for name in NUM_ANSWERS}
NOT_SEARCHED = {  # they hold schemas and texts, whose names say nothing about limits
    *("messages", "input", "prompt", "tools", "functions", "response_format", "text", "json_schema", "guided_json"),
    *("structured_outputs", "metadata", "logit_bias", "chat_template_kwargs"),
}
KNOWN = {*TOKEN_LIMITS, *NUM_ANSWERS}  # read at the top by these names
MAX_DEPTH = 4  # to which objects in a body are searched
CONTINUED = ("previous_response_id", "conversation")  # what is stored there is in the prompt too
# Parts of a message whose bytes say nothing about tokens, and where those bytes are.
MEDIA = {
    "image_url": ("image_url", "url"),
    "input_image": ("image_url",),
    "image": ("source", "data"),
    "input_audio": ("input_audio", "data"),
    "file": ("file", "file_data"),
    "input_file": ("file_data",),
}


class Estimate(NamedTuple):
    """What a request may use, before it has run.

    The tokens are what is to be expected, for limits per minute, which are corrected when it is over. The cost is the
    most that may be owed for one call, for budgets.
    """

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


def max_seconds(target: Target, timeout: float) -> float:
    """For how long a target may work on one call, at most.

    RunPod stops a job after the time that is sent with it. Of other targets only the first content is waited for
    `timeout` seconds; that all of their answer takes no longer is assumed, and no limit.
    """
    if isinstance(target, RunpodQueueTarget) and target.api == "jobs":
        return target.execution_timeout
    return timeout


class Sent(NamedTuple):
    """A request as one of the targets that may answer it would be sent it."""

    fields: Mapping[str, Any]
    price: Price
    context_length: int | None = None  # of the model, where it is configured
    max_seconds: float = 0.0  # for which the target may work on it


def estimate(path: str, body: bytes, sent: Iterable[Sent], *, num_media: int = 0) -> Estimate:
    """The most of all targets that may answer. `body` is the request's own, without `num_media` files beside it."""
    worst = Estimate(0, 0, 0.0)
    for fields, price, context_length, max_seconds in sent:
        num_prompt = estimate_prompt_tokens(len(body), fields) + num_media * MEDIA_TOKENS
        limit = context_length or UNLIMITED_COMPLETION_TOKENS
        expected = most = 0
        if path not in WITHOUT_COMPLETION:
            expected, most = max_completion_tokens(fields, DEFAULT_COMPLETION_TOKENS, limit)
        most_prompt = max(num_prompt, _most_prompt_tokens(len(body), fields, context_length, limit))
        cost = cost_of(Usage(most_prompt, 0, most), price, max_seconds)
        worst = Estimate(max(worst[0], num_prompt), max(worst[1], expected), max(worst[2], cost))
    return worst


def _most_prompt_tokens(num_bytes: int, fields: Mapping[str, Any], context_length: int | None, limit: int) -> int:
    """No token has less than a byte. Each prompt fits into the model's context, and so does what it continues."""
    media = [*_media_in(fields.get("messages")), *_media_in(fields.get("input"))]
    most = num_bytes - sum(map(len, media)) + len(media) * MEDIA_TOKENS
    if any(fields.get(name) for name in CONTINUED) or isinstance(fields.get("prompt"), dict):
        most += limit
    return min(most, context_length * _num_prompts(fields.get("prompt"))) if context_length else most


def estimate_prompt_tokens(num_bytes: int, fields: Mapping[str, Any]) -> int:
    """At least one. Token ids count as what they are; media by the piece, where a part says that it is one."""
    media = [*_media_in(fields.get("messages")), *_media_in(fields.get("input"))]
    num_text_bytes = num_bytes - sum(map(len, media))
    num_ids = _num_token_ids(fields.get("prompt"))
    return max(1, num_text_bytes // BYTES_PER_TOKEN, num_ids) + len(media) * MEDIA_TOKENS


def max_completion_tokens(fields: Mapping[str, Any], *unlimited: int) -> list[int]:
    """Of all answers that are asked for together, for each `unlimited`: that of one without a readable limit."""
    limits = [_count(value) for name in TOKEN_LIMITS if (value := fields.get(name)) is not None]
    asked = {
        name.replace("_", ""): min(_count(value) or 1, MAX_COUNT)
        for name in NUM_ANSWERS
        if (value := fields.get(name)) is not None
    }
    for name, value in _hidden(fields):
        if name in HIDDEN_LIMITS:
            limits.append(_count(value))
        else:
            asked[name] = max(asked.get(name, 1), min(_count(value) or 1, MAX_COUNT))
    limits = limits or [0]
    num_answers = math.prod(asked.values()) * _num_prompts(fields.get("prompt"))
    return [min(max(limit or each for limit in limits), MAX_COMPLETION_TOKENS) * num_answers for each in unlimited]


def _hidden(fields: Mapping[str, Any], depth: int = 0) -> Iterable[tuple[str, object]]:
    """Limits in objects within a body, or under a name that is written otherwise. Only numbers and texts are any."""
    for name, value in fields.items():
        if isinstance(value, dict):
            if depth < MAX_DEPTH and name not in NOT_SEARCHED:
                yield from _hidden(value, depth + 1)
        elif isinstance(value, int | float | str) and (depth or name not in KNOWN):
            folded = name.replace("_", "").replace("-", "").lower()
            if folded in HIDDEN_LIMITS or folded in HIDDEN_NUM_ANSWERS:
                yield folded, value


def _num_prompts(prompt: object) -> int:
    """A list of texts, or of lists of token ids, is answered one by one."""
    if isinstance(prompt, list) and not all(isinstance(part, int) for part in prompt):
        return len(prompt)
    return 1


def _num_token_ids(prompt: object) -> int:
    if not isinstance(prompt, list):
        return 0
    return sum(len(part) if isinstance(part, list) else isinstance(part, int) for part in prompt)


def _media_in(messages: object) -> Iterable[str]:
    """What images, sounds and files hold, in the messages of a chat or the input of a response."""
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            value: object = part
            for name in MEDIA.get(kind, ()) if isinstance(kind, str) else ():
                value = value.get(name) if isinstance(value, dict) else value
            if isinstance(value, str):
                yield value


def _count(value: object) -> int:
    """0 if it is none: not a number, not whole, below one."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value.strip()[:20])
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 1:
        return 0
    return math.ceil(value)
