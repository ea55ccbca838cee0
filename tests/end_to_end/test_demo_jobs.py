"""The demo model behind the RunPod edge, driven by the real SDK."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from handler.api.routes import CHAT
from handler.assembly import start_worker
from handler.loading import load_model
from handler.settings import Settings
from handler.worker import Worker
from tests.end_to_end.program import PATIENCE
from tests.fake_platform import FakePlatform
from tests.fake_worker import Json, chat_chunks
from tests.waiting import eventually

pytestmark = pytest.mark.model

STORY = [{"role": "user", "content": "Tell me a long story about a llama."}]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    settings = Settings.from_env({"N_CTX": "2048", "MAX_NUM_SEQS": "2"})
    worker = start_worker(settings, load_model(settings))
    yield worker
    worker.engine.close()


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
    return FakePlatform(monkeypatch)


def openai_job(**body: object) -> Json:
    """As RunPod passes on what came to its OpenAI address."""
    return {"openai_route": CHAT, "openai_input": {"model": "llama", "messages": STORY, "temperature": 0, **body}}


async def test_answer(worker: Worker, platform: FakePlatform) -> None:
    """One dict, which /runsync hands on in a list."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    sampling_params = {"temperature": 0, "max_tokens": 16}
    result = await platform.run(worker.api, {"messages": question, "sampling_params": sampling_params})

    [answer] = result["output"]
    assert "Paris" in answer["choices"][0]["message"]["content"]


async def test_stream_takes_few_posts(worker: Worker, platform: FakePlatform) -> None:
    """While the platform takes the first token, all the others gather."""
    engine = worker.engine
    num_finished = engine.state()["num_finished"]
    async with platform.busy():
        running = platform.start(worker.api, openai_job(stream=True, max_tokens=16))
        await platform.gets_a_post(PATIENCE)
        await eventually(
            lambda: engine.state()["num_finished"] > num_finished and not engine.state()["num_running"], PATIENCE
        )
    await running

    assert len(platform.posts) == 2
    chunks = chat_chunks(platform.posts)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(texts) == 2
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["before a token", "while it posts"])
async def test_cancelled_job_frees_its_slot(worker: Worker, platform: FakePlatform, stream: bool) -> None:
    """The SDK's way to cancel is to cancel the task, wherever it is."""
    async with platform.busy():
        running = platform.start(worker.api, openai_job(stream=stream, ignore_eos=True))
        await eventually(lambda: worker.engine.state()["num_running"] == 1, PATIENCE)
        if stream:
            await platform.gets_a_post(PATIENCE)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await eventually(lambda: worker.engine.state()["num_running"] == 0, PATIENCE)

    assert running.cancelled()
    assert platform.result is None
    assert worker.engine.state()["num_used_cells"] < 1000


async def test_error_is_json_in_a_string(worker: Worker, platform: FakePlatform) -> None:
    """The SDK keeps nothing else of it."""
    result = await platform.run(worker.api, openai_job(temperature=5))

    assert json.loads(result["error"])["error"]["param"] == "temperature"
