"""Token counts, in the places and forms that servers use."""

from typing import Any

import pytest

from local_gateway.wire.reported_usage import ReportedUsage, may_tell_usage, usage_in
from local_gateway.wire.sse import encode

OPENAI = {"prompt_tokens": 1000, "completion_tokens": 77, "total_tokens": 1077}
COUNTED = ReportedUsage(1000, None, 77)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        pytest.param({"usage": OPENAI}, COUNTED, id="openai"),
        pytest.param({"choices": [{"delta": {}, "usage": OPENAI}]}, COUNTED, id="moonshot"),
        pytest.param({"choices": [], "x_groq": {"id": "r", "usage": OPENAI}}, COUNTED, id="groq"),
        pytest.param({"usage": {k: float(v) for k, v in OPENAI.items()}}, COUNTED, id="floats"),
        pytest.param({"type": "response.completed", "response": {"usage": {"input_tokens": 1000, "output_tokens": 77,
                      "input_tokens_details": {"cached_tokens": 4}}}}, ReportedUsage(1000, 4, 77), id="responses"),
        pytest.param({"usage": {**OPENAI, "prompt_cache_hit_tokens": 900, "prompt_cache_miss_tokens": 100}},
                     ReportedUsage(1000, 900, 77), id="deepseek"),
        pytest.param({"usage": {**OPENAI, "cached_tokens": 900}}, ReportedUsage(1000, 900, 77), id="moonshot-cached"),
        pytest.param({"usage": {**OPENAI, "prompt_tokens_details": {"cached_tokens": 0}}}, ReportedUsage(1000, 0, 77),
                     id="an explicit 0"),
        pytest.param({"usage": {"input_tokens": 12, "output_tokens": 3, "cache_read_input_tokens": 100,
                      "cache_creation_input_tokens": 8}}, ReportedUsage(120, 100, 3), id="anthropic"),
        pytest.param({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
                     ReportedUsage(25, None, 1), id="anthropic-start"),
        pytest.param({"usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 35,
                      "cachedContentTokenCount": 2}}, ReportedUsage(10, 2, 25), id="gemini-with-thoughts"),
        pytest.param({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, ReportedUsage(3, None, None), id="embedding"),
        pytest.param({"usage": {"total_tokens": 3}}, ReportedUsage(3, None, None), id="reranker"),
        pytest.param({"usage": {"input": 10, "output": 5}}, ReportedUsage(10, None, 5), id="worker-vllm"),
        pytest.param({"meta": {"billed_units": {"input_tokens": 10, "output_tokens": 5}}}, ReportedUsage(10, None, 5),
                     id="cohere"),
        pytest.param({"done": True, "prompt_eval_count": 10, "eval_count": 5}, ReportedUsage(10, None, 5), id="ollama"),
        pytest.param({"choices": [], "timings": {"cache_n": 90, "prompt_n": 10, "predicted_n": 5}},
                     ReportedUsage(100, 90, 5), id="llama.cpp"),
        pytest.param({"usage": {"input_tokens": 0, "output_tokens": 0}}, None, id="a message that does not know"),
        pytest.param({"usage": {"prompt_tokens": -1, "completion_tokens": 10**20}}, None, id="not believed"),
        pytest.param({"usage": {"prompt_tokens": True, "completion_tokens": "many"}}, None, id="no numbers"),
        pytest.param({"usage": None, "choices": [{"delta": {"content": "x"}}]}, None, id="none yet"),
        pytest.param([1], None, id="a list"),
    ],
)  # fmt: skip
def test_where_it_is(body: Any, usage: ReportedUsage | None) -> None:
    """gateway.md D6, and what was seen beside it."""
    assert usage_in(body) == usage
    assert usage is None or may_tell_usage(encode(body))


def test_a_stream() -> None:
    """Anthropic tells the prompt at the start and the answer at the end; a proxy's 0 there takes nothing back."""
    start = usage_in({"message": {"usage": {"input_tokens": 25, "output_tokens": 1}}})
    end = usage_in({"usage": {"input_tokens": 0, "output_tokens": 15}})
    assert start is not None
    assert end is not None

    assert start.merged(end) == ReportedUsage(25, None, 15)
