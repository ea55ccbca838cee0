"""Gemma, which has no chat template and a sliding window."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler.api.routes import CHAT, COMPLETIONS
from handler.assembly import start_worker
from handler.errors import InvalidRequestError
from handler.loading import load_model
from handler.settings import Settings
from handler.worker import Worker
from tests.fake_worker import Json, messages

pytestmark = pytest.mark.model

WINDOW = 512  # of Gemma, in tokens
LIST = "".join(f"Item {number} of the list is the number {number}.\n" for number in range(1, 61))


@contextmanager
def started(model: Path, swa_full: bool = True) -> Iterator[Worker]:
    """A worker with an empty cache."""
    environ = {"MODEL": str(model), "N_CTX": "4096", "MAX_NUM_SEQS": "2", "SWA_FULL": str(swa_full)}
    settings = Settings.from_env(environ)
    worker = start_worker(settings, load_model(settings))
    try:
        yield worker
    finally:
        worker.engine.close()


async def complete(worker: Worker, prompt: str) -> Json:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 12}
    answer = await worker.api.call(COMPLETIONS, body)
    assert isinstance(answer, dict)
    return answer


async def test_completes_but_does_not_chat(gemma: Path) -> None:
    """The error says what to do instead."""
    with started(gemma) as worker:
        answer = await complete(worker, "Q: What is the capital of France?\nA:")
        with pytest.raises(InvalidRequestError) as caught:
            await worker.api.call(CHAT, messages("Hi"))

    assert "Paris" in answer["choices"][0]["text"]
    assert str(caught.value) == "This model has no chat template. Use /v1/completions, or set CHAT_TEMPLATE."
    assert caught.value.code == "chat_template_error"


@pytest.mark.parametrize("swa_full", [True, False], ids=["whole cache", "window alone"])
async def test_goes_on_from_a_prefix_beyond_the_window(gemma: Path, swa_full: bool) -> None:
    """What follows a text is the same whether its beginning was in the cache or not."""
    with started(gemma, swa_full) as worker:
        first = await complete(worker, LIST)
        longer = LIST + first["choices"][0]["text"] + "\nItem"
        second = await complete(worker, longer)
    with started(gemma, swa_full) as worker:
        fresh = await complete(worker, longer)

    assert first["usage"]["prompt_tokens"] > WINDOW
    assert second["choices"] == fresh["choices"]
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    if swa_full:
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
