"""What chat and completions say alike: finish reasons, usage, tokens."""

import secrets
import time
from typing import Any, Final, Literal, NamedTuple

from handler.api.openai_types import CompletionTokensDetails, CompletionUsage, PromptTokensDetails
from handler.engine.logprobs import TokenLogprob
from handler.engine.sequence import FinishReason, SequenceUsage

Answer = dict[str, Any]  # a JSON object

FINISH_REASONS: Final[dict[FinishReason, Literal["stop", "length"]]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
}
MIN_LOGPROB = -9999.0  # OpenAI's word for "very unlikely"; minus infinity is not JSON


class Identity(NamedTuple):
    """What every chunk of one answer repeats."""

    id: str
    created: int  # seconds since 1970
    model: str

    @classmethod
    def new(cls, prefix: str, model: str) -> "Identity":
        return cls(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), model)


def finish_reason(reason: FinishReason | None) -> Literal["stop", "length"] | None:
    return None if reason is None else FINISH_REASONS[reason]


def total_usage(usages: list[SequenceUsage], n: int) -> CompletionUsage:
    """Usage of a request with `n` choices a prompt, which is counted once, with what its first choice reused."""
    firsts = usages[::n]
    prompt_tokens = sum(usage.num_prompt_tokens for usage in firsts)
    completion_tokens = sum(usage.num_completion_tokens for usage in usages)
    total = CompletionUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(usage.num_cached_tokens for usage in firsts)),
    )
    if reasoning_tokens := sum(usage.num_reasoning_tokens for usage in usages):
        total.completion_tokens_details = CompletionTokensDetails(reasoning_tokens=reasoning_tokens)
    return total


def token_text(entry: TokenLogprob) -> str:
    return entry.piece.decode("utf-8", "replace")


def token_logprob(entry: TokenLogprob) -> float:
    return max(entry.logprob, MIN_LOGPROB)
