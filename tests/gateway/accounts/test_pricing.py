"""What a request costs, before and after it."""

import pytest

from local_gateway.accounts.pricing import (
    DEFAULT_COMPLETION_TOKENS,
    EXPECTED_SECONDS,
    MAX_COMPLETION_TOKENS,
    MEDIA_TOKENS,
    cost_of,
    estimate,
)
from local_gateway.accounts.usage import Usage
from local_gateway.config.settings import Price

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
    ("path", "fields", "num_completion_tokens"),
    [
        (CHAT, {}, DEFAULT_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": None}, DEFAULT_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": "many"}, DEFAULT_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": True}, DEFAULT_COMPLETION_TOKENS),
        (CHAT, {"max_tokens": 100}, 100),
        (CHAT, {"max_tokens": 0}, 0),
        (CHAT, {"max_tokens": 100, "n": 3}, 300),
        (CHAT, {"max_completion_tokens": 50, "max_tokens": 100}, 50),
        (CHAT, {"max_tokens": 10**18}, MAX_COMPLETION_TOKENS),
        ("/responses", {"max_output_tokens": 60}, 60),
        ("/embeddings", {}, 0),
    ],
)
def test_estimated_completion(path: str, fields: dict[str, object], num_completion_tokens: int) -> None:
    """The limit the client names, and else a usual one."""
    assert estimate(path, b"", fields, []).num_completion_tokens == num_completion_tokens


def test_estimated_prompt() -> None:
    """Four bytes a token; media count by the piece, because their bytes say nothing."""
    text = b"x" * 400
    image = b'{"image_url":{"url":"data:image/png;base64,' + b"A" * 1_000_000 + b'"}}'

    assert estimate(CHAT, text, {}, []).num_prompt_tokens == 100
    assert estimate(CHAT, image, {}, []).num_prompt_tokens == MEDIA_TOKENS + 11


def test_the_dearest_target_is_reserved_for() -> None:
    """Which of them answers is not known before."""
    prices = [Price(completion=1.0), Price(gpu_second=0.01), Price(completion=5.0)]

    guess = estimate(CHAT, b"", {"max_tokens": 100_000}, prices)

    assert guess.cost == max(0.1, EXPECTED_SECONDS * 0.01, 0.5)
    assert guess.num_tokens == 100_000
