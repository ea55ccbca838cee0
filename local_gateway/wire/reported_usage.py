"""The token counts in an answer or an event, wherever and however its server writes them. Pure.

usage                       OpenAI and most others; in `response` (Responses) and `message` (Anthropic's start)
choices[i].usage            Moonshot
x_groq.usage                Groq
usageMetadata               Gemini
meta.billed_units           Cohere
timings                     llama.cpp: prompt_n without the cached cache_n
prompt_eval_count           Ollama's own API, at the top
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Json = Mapping[str, Any]

MAX_COUNT = 1_000_000_000  # no request uses more tokens: a target that says so is not believed
# What an answer with counts has in it. In a text the quotes are behind backslashes.
USAGE = re.compile(rb'"usage(?:Metadata|_metadata)?"\s*:\s*\{')  # not null, which OpenAI puts into every event
OTHERS = re.compile(rb'"(?:billed_units|timings)"\s*:\s*\{|"(?:prompt_)?eval_count"\s*:\s*\d')
PROMPT = (
    *("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count", "inputTokens", "promptTokens"),
    *("prompt_eval_count", "input"),
)
COMPLETION = (
    *("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count", "outputTokens"),
    *("completionTokens", "eval_count", "generated_tokens", "output"),
)
CACHED = (
    *("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount"),
    *("cached_content_token_count", "cacheReadInputTokens"),
)
TOTAL = ("total_tokens", "totalTokenCount", "total_token_count", "totalTokens")
DETAILS = ("prompt_tokens_details", "input_tokens_details")
BESIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")  # Anthropic's, not in `input_tokens`


class ReportedUsage(NamedTuple):
    """Tokens, as a server counts them. None: it does not say. Cached ones are a part of the prompt's."""

    num_prompt: int | None = None
    num_cached: int | None = None
    num_completion: int | None = None

    def merged(self, later: "ReportedUsage") -> "ReportedUsage":
        """With what a later event says. Counts of a stream only grow; a part that is left out is not taken back."""
        return ReportedUsage(*(_larger(one, two) for one, two in zip(self, later, strict=True)))


def may_tell_usage(data: bytes) -> bool:
    """Whether an answer or an event, as bytes, is worth parsing in search of counts: most events are not."""
    if b'"usage' in data and USAGE.search(data) is not None:  # the name alone is found ten times as fast
        return True
    has_other = b"timings" in data or b"eval_count" in data or b"billed_units" in data
    return has_other and OTHERS.search(data) is not None


def usage_in(body: object) -> ReportedUsage | None:
    """What a parsed body or event says; None if it says nothing."""
    usage: ReportedUsage | None = None
    for place in _places(body) if isinstance(body, dict) else ():
        found = _read(place)
        if any(count is not None for count in found):
            usage = found if usage is None else usage.merged(found)
    return usage


def _places(body: Json) -> Iterator[Json]:
    for key in ("usage", "usageMetadata", "usage_metadata"):
        if isinstance(body.get(key), dict):
            yield body[key]
            return
    for key in ("response", "message", "x_groq"):
        if isinstance(body.get(key), dict):
            yield from _places(body[key])
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and isinstance(choice.get("usage"), dict):
            yield choice["usage"]
    meta = body.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("billed_units"), dict):
        yield meta["billed_units"]
    if "eval_count" in body or "prompt_eval_count" in body:
        yield body
    if isinstance(timings := body.get("timings"), dict):
        yield _of_timings(timings)


def _of_timings(timings: Json) -> Json:
    cached, prompt = _count(timings.get("cache_n")), _count(timings.get("prompt_n"))
    whole = None if prompt is None else prompt + (cached or 0)
    return {"prompt_tokens": whole, "cached_tokens": cached, "completion_tokens": timings.get("predicted_n")}


def _read(usage: Json) -> ReportedUsage:
    prompt, completion, total = (_first(usage, names) for names in (PROMPT, COMPLETION, TOTAL))
    cached = next((n for each in _with_details(usage) if (n := _first(each, CACHED)) is not None), None)
    if prompt is not None and "prompt_tokens" not in usage:
        prompt += sum(_count(usage.get(name)) or 0 for name in BESIDE_INPUT)
    if prompt == completion == 0 and "input_tokens" in usage:
        return ReportedUsage()  # Anthropic's form has no way to leave out what is not known
    if prompt is None and completion is None:
        prompt = total  # embeddings and rerankers
    elif prompt is not None and completion is not None and total is not None:
        completion = max(completion, total - prompt)  # some count their reasoning in the total alone
    return ReportedUsage(prompt, cached, completion)


def _with_details(usage: Json) -> Iterator[Json]:
    yield from (usage[key] for key in DETAILS if isinstance(usage.get(key), dict))
    yield usage


def _first(usage: Json, names: tuple[str, ...]) -> int | None:
    for name in names:
        if (value := usage.get(name)) is not None and (count := _count(value)) is not None:
            return count
    return None


def _count(value: object) -> int | None:
    """Of a whole number, also written as 1000.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None


def _larger(one: int | None, two: int | None) -> int | None:
    return max((count for count in (one, two) if count is not None), default=None)
