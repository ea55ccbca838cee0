"""The RunPod edge: jobs in, and what the real SDK posts for them."""

import asyncio
import inspect
import json

import pytest

from handler import job
from handler.api.routes import CHAT, COMPLETIONS
from handler.errors import DecodeError, InvalidRequestError
from handler.job import MAX_POST_CHARS, Call, make_handler, parse_job
from tests.fake_platform import FakePlatform
from tests.fake_worker import Json, chat_chunks, events, fake_worker
from tests.waiting import eventually

HI = [{"role": "user", "content": "Hi"}]
ENDLESS = [{"role": "user", "content": "endless"}]


@pytest.mark.parametrize(
    ("job_input", "call"),
    [
        ({"openai_route": "/v1/models", "openai_input": None}, Call("/v1/models", {})),
        ({"openai_route": "/v1/models"}, Call("/v1/models", {})),
        ({"openai_route": CHAT, "openai_input": {"messages": HI}}, Call(CHAT, {"messages": HI})),
        ({"route": CHAT, "body": {"messages": HI}}, Call(CHAT, {"messages": HI})),
        ({"route": CHAT, "body": {"messages": HI}, "method": "POST"}, Call(CHAT, {"messages": HI}, "POST")),
        ({"route": "/v1/models", "method": "GET"}, Call("/v1/models", {}, "GET")),
        ({"messages": HI, "stream": True}, Call(CHAT, {"messages": HI, "stream": True})),
        ({"prompt": "Once", "n": 2}, Call(COMPLETIONS, {"prompt": "Once", "n": 2})),
        (
            {"prompt": "Once", "sampling_params": {"temperature": 0, "max_tokens": 5}, "temperature": 1},
            Call(COMPLETIONS, {"prompt": "Once", "temperature": 0, "max_tokens": 5}),
        ),
        ({"prompt": "Once", "sampling_params": None}, Call(COMPLETIONS, {"prompt": "Once"})),
        ({"messages": HI, "prompt": "Once"}, Call(CHAT, {"messages": HI, "prompt": "Once"})),
    ],
)
def test_forms_of_a_job(job_input: Json, call: Call) -> None:
    """RunPod's own, the same for /run and /runsync, and the shorthand."""
    assert parse_job(job_input) == call


WHAT_IT_MUST_HAVE = (
    "The job's input must have 'messages', 'prompt', 'input', 'query', 'openai_route' with 'openai_input', or "
    "'route' with 'body'."
)


@pytest.mark.parametrize(
    ("job_input", "param", "message"),
    [
        (None, "input", WHAT_IT_MUST_HAVE),
        ("Hi", "input", WHAT_IT_MUST_HAVE),
        ([], "input", WHAT_IT_MUST_HAVE),
        ({}, "input", WHAT_IT_MUST_HAVE),
        ({"openai_route": 5, "openai_input": {}}, "input", WHAT_IT_MUST_HAVE),
        ({"route": "/v1/models", "method": "PUT"}, "method", "'method' must be GET or POST."),
        ({"route": "/v1/models", "method": ["GET"]}, "method", "'method' must be GET or POST."),
        ({"prompt": "Once", "sampling_params": [1]}, "sampling_params", "'sampling_params' must be an object."),
    ],
)
def test_what_is_no_job(job_input: object, param: str, message: str) -> None:
    """Said in one line, with what would be one."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_job(job_input)

    assert (caught.value.param, str(caught.value)) == (param, message)


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
    return FakePlatform(monkeypatch)


def test_the_sdk_sees_a_generator() -> None:
    """It looks at the function, and would not iterate anything else."""
    with fake_worker() as worker:
        assert inspect.isasyncgenfunction(make_handler(worker.api))


async def test_answer_is_one_dict(platform: FakePlatform) -> None:
    """Streamed or not is the request's choice, though to the SDK every handler of ours is a stream."""
    with fake_worker() as worker:
        result = await platform.run(worker.api, {"messages": HI})

    [answer] = result["output"]
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    assert platform.posts == [answer]


@pytest.mark.parametrize("job_input", [{"openai_route": "/v1/models"}, {"route": "/models", "method": "GET"}])
async def test_models(platform: FakePlatform, job_input: Json) -> None:
    """RunPod tells no method; a job may."""
    with fake_worker() as worker:
        result = await platform.run(worker.api, job_input)

    assert [model["id"] for model in result["output"][0]["data"]] == ["llama", "org/model"]


async def test_stream_is_text_of_events(platform: FakePlatform) -> None:
    """What a client of RunPod's OpenAI address reads is what was posted, one after the other."""
    with fake_worker() as worker:
        result = await platform.run(
            worker.api, {"openai_route": CHAT, "openai_input": {"messages": HI, "stream": True}}
        )

    assert result == {"output": platform.posts}
    chunks = chat_chunks(platform.posts)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello!"


async def test_posts_take_what_has_gathered(platform: FakePlatform) -> None:
    """The first token at once; while it is posted the model goes on, and all that it wrote is the second post."""
    with fake_worker(held=True) as worker:
        worker.permit()
        async with platform.busy():
            running = platform.start(worker.api, {"messages": HI, "stream": True})
            await platform.gets_a_post()
            worker.let_go()
            await worker.finishes()
        await running

    first, second = platform.posts
    assert [event["choices"][0]["delta"] for event in events(first + "data: [DONE]\n\n")] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
    ]
    assert [event["choices"][0]["delta"] for event in events(second)] == [{"content": "ello!"}, {}]


@pytest.mark.parametrize("char", ["a", "🦙", '"', "\\", "\n"])
def test_posts_are_small_enough(char: str) -> None:
    """The platform takes 1 MB, as the SDK encodes it."""
    post = json.dumps({"output": MAX_POST_CHARS * char}, ensure_ascii=False)

    assert len(post.encode()) < 1_000_000


async def test_large_posts_are_split(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform joins them."""
    monkeypatch.setattr(job, "MAX_POST_CHARS", 100)
    with fake_worker() as worker:
        await platform.run(worker.api, {"prompt": 500 * "x", "echo": True, "stream": True, "max_tokens": 1})

    assert {len(post) for post in platform.posts[:5]} == {100}
    assert events("".join(platform.posts))[0]["choices"][0]["text"].startswith(500 * "x")


ERRORS: list[tuple[object, int, str | None, str]] = [
    ({}, 400, "input", "invalid_request_error"),
    ({"messages": "x"}, 400, "messages", "invalid_request_error"),
    ({"prompt": "Once", "temperature": 5}, 400, "temperature", "invalid_request_error"),
    ({"prompt": 1000 * "x"}, 400, "prompt", "context_length_exceeded"),
    ({"openai_route": "/v1/moderations", "openai_input": {"input": "x"}}, 404, None, "unknown_url"),
    ({"openai_route": "/v1/embeddings", "openai_input": {"input": "x"}}, 400, "model", "model_not_supported"),
    ({"query": "x", "docs": ["y"]}, 400, "model", "model_not_supported"),
    ({"messages": HI, "model": "gpt-5"}, 404, "model", "model_not_found"),
    ({"route": CHAT, "method": "GET"}, 405, None, "method_not_allowed"),
    ({"prompt": 30 * ["Once"]}, 400, None, "invalid_request_error"),
]


@pytest.mark.parametrize(("job_input", "status", "param", "code"), ERRORS)
async def test_error_survives_the_sdk(
    platform: FakePlatform, job_input: object, status: int, param: str | None, code: str
) -> None:
    """A failed job has one string for its error: ours is JSON, with OpenAI's body and the status."""
    with fake_worker() as worker:
        result = await platform.run(worker.api, job_input)

        assert result.keys() == {"error"}
        told = json.loads(result["error"])
        assert told["status"] == status
        assert (told["error"]["param"], told["error"]["code"]) == (param, code)
        assert not platform.posts
        assert await worker.still_answers()


async def test_error_of_a_stream_is_an_event(platform: FakePlatform) -> None:
    """A client that reads events would see nothing of a failed job."""
    with fake_worker() as worker:
        result = await platform.run(worker.api, {"messages": HI, "stream": True, "temperature": 5})

    assert result == {"output": platform.posts}
    [error] = events("".join(platform.posts))
    assert (error["status"], error["error"]["param"]) == (400, "temperature")


async def test_error_within_a_stream_is_an_event(platform: FakePlatform) -> None:
    """And the last, with no traceback for the client."""
    with fake_worker(held=True) as worker:
        worker.runner.failures += [None, DecodeError("llama_decode returned -3.")]
        worker.permit()
        async with platform.busy():
            running = platform.start(worker.api, {"messages": HI, "stream": True})
            await platform.gets_a_post()
            worker.let_go()
            await eventually(lambda: worker.runner.samplers[0].is_closed)
        await running

    assert platform.result == {"output": platform.posts}
    *_, error = events("".join(platform.posts))
    assert error["error"]["code"] == "engine_error"
    assert "Traceback" not in str(platform.result)


async def test_an_unexpected_error_leaves_no_traceback(platform: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would send it to the client."""
    with fake_worker() as worker:
        monkeypatch.setattr(worker.api, "call", None)
        result = await platform.run(worker.api, {"messages": HI})

    told = json.loads(result["error"])
    assert (told["status"], told["error"]["code"]) == (500, "internal_error")
    assert "NoneType" not in result["error"]


async def test_cancelled_while_it_posts(platform: FakePlatform) -> None:
    """The SDK leaves our generator suspended then, and the slot is free all the same."""
    with fake_worker(held=True) as worker:
        worker.permit()
        async with platform.busy():
            running = platform.start(worker.api, {"messages": ENDLESS, "stream": True})
            await platform.gets_a_post()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            worker.let_go()
            await worker.drops_all()

        assert platform.result is None
        assert await worker.still_answers()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_cancelled_while_it_waits_for_the_first_token(platform: FakePlatform, stream: bool) -> None:
    """Nothing is posted, and the slot is free."""
    with fake_worker(held=True) as worker:
        running = platform.start(worker.api, {"messages": ENDLESS, "stream": stream})
        await asyncio.to_thread(worker.runner.wait_for_step)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        worker.let_go()

        await worker.drops_all()
        assert (platform.posts, platform.result) == ([], None)
        assert await worker.still_answers()


async def test_cancelled_while_it_waits_for_the_next_token(platform: FakePlatform) -> None:
    """What was posted stays posted, and the slot is free."""
    with fake_worker(held=True) as worker:
        worker.permit()
        running = platform.start(worker.api, {"messages": ENDLESS, "stream": True})
        await platform.gets_a_post()
        await asyncio.to_thread(worker.runner.wait_for_step)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        worker.let_go()

        await worker.drops_all()
        assert await worker.still_answers()
