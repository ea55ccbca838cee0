"""What a request costs, before and after it."""

import json

import pytest

from local_gateway.accounts.pricing import (
    DEFAULT_COMPLETION_TOKENS as DEFAULT,
)
from local_gateway.accounts.pricing import (
    MAX_COMPLETION_TOKENS,
    MEDIA_TOKENS,
    Sent,
    cost_of,
    estimate,
    max_seconds,
)
from local_gateway.accounts.pricing import (
    UNLIMITED_COMPLETION_TOKENS as UNLIMITED,
)
from local_gateway.accounts.usage import Usage
from local_gateway.config.settings import LocalTarget, OpenAITarget, Price, RunpodLbTarget, RunpodQueueTarget, Target

CHAT = "/chat/completions"


@pytest.mark.parametrize(
    ("price", "cost"),
    [
        (Price(), 0.0),
        (Price(prompt=2.0, completion=10.0), 2.0 + 5.0),
        (Price(prompt=2.0, cached=0.5, completion=10.0), 1.2 + 0.2 + 5.0),
        (Price(prompt=2.0, cached=0.0, completion=10.0), 1.2 + 5.0),
        (Price(gpu_second=0.25), 1.0),
        (Price(completion=2.0, gpu_second=0.25), 1.0 + 1.0),
    ],
)
def test_cost(price: Price, cost: float) -> None:
    """Per million tokens, per GPU second, or both; cached tokens have a price of their own only where one is set."""
    usage = Usage(num_prompt_tokens=1_000_000, num_cached_tokens=400_000, num_completion_tokens=500_000)

    assert cost_of(usage, price, seconds=4.0) == pytest.approx(cost)


def test_more_cached_than_prompt_tokens_do_not_earn_money() -> None:
    """A target that miscounts does not make the cost negative."""
    assert cost_of(Usage(10, 1_000_000, 0), Price(prompt=1.0, cached=0.0), 0.0) == 0.0


@pytest.mark.parametrize(
    ("path", "fields", "expected", "most"),
    [
        (CHAT, {}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": None}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": "many"}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": True}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": 0}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": -1}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": [100]}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": 100}, 100, 100),
        (CHAT, {"max_tokens": "100"}, 100, 100),
        (CHAT, {"max_tokens": 100_000.0}, 100_000, 100_000),
        (CHAT, {"max_tokens": 100, "n": 3}, 300, 300),
        (CHAT, {"max_tokens": 100, "n": 3.0}, 300, 300),
        (CHAT, {"max_tokens": 100, "n": "3"}, 300, 300),
        (CHAT, {"max_tokens": 100, "n": 0}, 100, 100),
        (CHAT, {"max_tokens": 100, "n": 2, "best_of": 4}, 800, 800),
        (CHAT, {"max_completion_tokens": 1, "max_tokens": 100_000}, 100_000, 100_000),
        (CHAT, {"max_completion_tokens": 1, "max_tokens": "x"}, DEFAULT, UNLIMITED),
        (CHAT, {"max_completion_tokens": 0, "max_tokens": 1}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": 1, "n_predict": 500}, 500, 500),
        (CHAT, {"max_tokens": 1, "max_new_tokens": 600}, 600, 600),
        (CHAT, {"max_tokens": 1, "options": {"num_predict": 700}}, 700, 700),
        (CHAT, {"max_tokens": 10**18}, MAX_COMPLETION_TOKENS, MAX_COMPLETION_TOKENS),
        ("/completions", {"max_tokens": 10, "prompt": ["a"] * 100}, 1000, 1000),
        ("/completions", {"max_tokens": 10, "prompt": [[1, 2], [3]]}, 20, 20),
        ("/completions", {"max_tokens": 10, "prompt": [1, 2, 3]}, 10, 10),
        ("/completions", {"max_tokens": 10, "prompt": []}, 10, 10),
        ("/completions", {"max_tokens": 10, "prompt": [1, "a", [2]]}, 30, 30),
        (CHAT, {"max_tokens": 1, "extra_body": {"max_tokens": 500}}, 500, 500),
        (CHAT, {"max_tokens": 1, "extra_body": {"google": {"generationConfig": {"maxOutputTokens": 500}}}}, 500, 500),
        (CHAT, {"max_tokens": 1, "sampling_params": {"max_new_tokens": "500"}}, 500, 500),
        (CHAT, {"max_tokens": 1, "MaxTokens": 500}, 500, 500),
        (CHAT, {"max_tokens": 1, "max-tokens": 500}, 500, 500),
        (CHAT, {"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": 500}}, 500, 500),
        (CHAT, {"max_tokens": 1, "min_tokens": 500}, 500, 500),
        (CHAT, {"max_tokens": 1, "options": {"num_predict": -1}}, DEFAULT, UNLIMITED),
        (CHAT, {"max_tokens": 10, "extra_body": {"n": 50}}, 500, 500),
        (CHAT, {"max_tokens": 10, "candidate_count": 50}, 500, 500),
        (CHAT, {"max_tokens": 10, "n": 2, "generation_config": {"n": 50}}, 500, 500),
        (CHAT, {"max_tokens": 5, "response_format": {"schema": {"properties": {"n": 9, "max_tokens": 9}}}}, 5, 5),
        (CHAT, {"max_tokens": 5, "metadata": {"max_tokens": "9"}, "tools": [{"n": 9}]}, 5, 5),
        (CHAT, {"max_tokens": 5, "options": {"max_tokens": {"type": "integer"}, "n": None}}, 5, 5),
        ("/responses", {"max_output_tokens": 60}, 60, 60),
        ("/embeddings", {}, 0, 0),
        ("/rerank", {}, 0, 0),
        ("/tokenize", {}, 0, 0),
        ("/messages/count_tokens", {}, 0, 0),
        ("/infill", {"n_predict": 12}, 12, 12),
        ("/infill", {"n_predict": -1}, 2048, 131_072),
        ("/completions", {"max_tokens": -1, "n_predict": 5}, 2048, 131_072),
    ],
)
def test_estimated_completion(path: str, fields: dict[str, object], expected: int, most: int) -> None:
    """The largest limit that a target may read, for all answers of all prompts; what cannot be read is no limit."""
    guess = estimate(path, b"", [Sent(fields, Price(completion=1e6))])

    assert guess.num_completion_tokens == expected
    assert guess.cost == most


def test_the_models_context_is_a_limit() -> None:
    """Where it is configured, an answer without a limit is not thought to be longer."""
    assert estimate(CHAT, b"", [Sent({}, Price(completion=1e6), 4096)]).cost == 4096


def test_estimated_prompt() -> None:
    """Four bytes a token; media count by the piece, because their bytes say nothing."""
    text = b"x" * 400
    url = "data:image/png;base64," + "A" * 1_000_000

    assert estimate(CHAT, text, [Sent({}, Price())]).num_prompt_tokens == 100
    for image in ({"url": url}, url):
        part = {"type": "image_url", "image_url": image}
        fields = {"messages": [{"role": "user", "content": [part]}]}
        raw = json.dumps(fields).encode()
        assert MEDIA_TOKENS < estimate(CHAT, raw, [Sent(fields, Price())]).num_prompt_tokens < MEDIA_TOKENS + 50


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "x;base64," + "A" * 100_000}]},
        {"messages": [{"role": "user", "content": "hi"}], "data": "A" * 100_000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "A" * 100_000}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "image_url": {"url": "A" * 100_000}}]}]},
        {"prompt": list(range(30_000))},
        {"prompt": [[1] * 30_000]},
    ],
)
def test_prompts_are_not_talked_down(fields: dict[str, object]) -> None:
    """Only a part that says so is an image; token ids are tokens, however short they are written."""
    raw = json.dumps(fields, separators=(",", ":")).encode()

    assert estimate(CHAT, raw, [Sent(fields, Price())]).num_prompt_tokens >= 25_000


@pytest.mark.parametrize(
    ("fields", "context_length", "most"),
    [
        ({"messages": [{"role": "user", "content": "\u1200" * 1000}]}, None, 3000),
        ({"messages": [{"role": "user", "content": "\U0001f389" * 1000}]}, 2000, 2000),
        ({"prompt": ["\u1200" * 1000] * 3}, 2000, 6000),
        ({"input": "hi", "previous_response_id": "resp_1"}, None, UNLIMITED),
        ({"input": "hi", "conversation": {"id": "conv_1"}}, 4096, 4000),
        ({"prompt": {"id": "pmpt_1"}}, None, UNLIMITED),
    ],
)
def test_the_most_that_a_prompt_may_cost(fields: dict[str, object], context_length: int | None, most: int) -> None:
    """A token for each byte, and all that it continues; at most what the model's context holds."""
    raw = json.dumps(fields, ensure_ascii=False).encode()
    guess = estimate("/embeddings", raw, [Sent(fields, Price(prompt=1e6), context_length)])

    assert most <= guess.cost <= most + 100
    assert guess.num_prompt_tokens <= len(raw) // 4


def test_the_dearest_target_is_reserved_for() -> None:
    """Which of them answers is not known before."""
    prices = [Price(completion=1.0), Price(gpu_second=0.01), Price(completion=5.0)]

    guess = estimate(CHAT, b"", [Sent({"max_tokens": 100_000}, price, None, 60.0) for price in prices])

    assert guess.cost == max(0.1, 60.0 * 0.01, 0.5)
    assert guess.num_tokens == 100_001


RUNPOD = {"endpoint_id": "ep", "api_key": "rpa_1"}


@pytest.mark.parametrize(
    ("target", "seconds"),
    [
        (RunpodQueueTarget(type="runpod_queue", **RUNPOD), 600.0),
        (RunpodQueueTarget(type="runpod_queue", execution_timeout="2h", **RUNPOD), 7200.0),
        (RunpodQueueTarget(type="runpod_queue", execution_timeout=5, **RUNPOD), 5.0),
        (RunpodQueueTarget(type="runpod_queue", execution_timeout=5, api="openai", **RUNPOD), 90.0),
        (RunpodLbTarget(type="runpod_lb", **RUNPOD), 90.0),
        (OpenAITarget(type="openai"), 90.0),
        (LocalTarget(type="local"), 90.0),
    ],
)
def test_seconds_that_are_reserved(target: Target, seconds: float) -> None:
    """RunPod's jobs are stopped in time; what runs elsewhere is thought to be over before the timeout for it."""
    assert max_seconds(target, 90.0) == seconds
