"""The collector has nothing to do for requests: so it may look seldom."""

import gc

import pytest

from local_gateway.server import heap
from tests.gateway.running_gateway import running
from tests.gateway.targets.scripted import ScriptedBackend

CHAT = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_leaves_no_cycles(is_stream: bool) -> None:
    """All that a request makes is freed when it ends, without the collector."""
    async with running(None, ScriptedBackend()) as gateway:
        for _ in range(3):  # caches are filled
            await gateway.client.post("/v1/chat/completions", CHAT | {"stream": is_stream})
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await gateway.client.post("/v1/chat/completions", CHAT | {"stream": is_stream})
            assert gc.collect() < 20
        finally:
            gc.enable()


def test_what_was_made_before_is_not_looked_at_again() -> None:
    """After the start a collection looks at what is new."""
    before = gc.get_threshold()
    try:
        heap.settle()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == heap.THRESHOLDS
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
