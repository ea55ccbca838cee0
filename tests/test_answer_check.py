"""Jobs that say what their answer must contain: only a right answer completes them."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from handler.answer_check import checked, text_of
from handler.job_run import Job, Output

CHAT = {"choices": [{"message": {"content": "It is Paris."}}, {"message": {"content": None}}]}
STREAM = [
    'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
    'data: {"choices": [{"delta": {"content": "It is Pa',
    'r"}}]}\n\ndata: {"choices": [{"delta": {"content": "is."}}]}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n',
]
MODELS = {"object": "list", "data": [{"id": "llama"}]}


class Worker:
    """Answers every job with these outputs, and remembers what it was asked."""

    def __init__(self, *outputs: Output) -> None:
        self.outputs = outputs
        self.asked: list[Job] = []

    async def __call__(self, job: Job) -> AsyncGenerator[Output, None]:
        self.asked.append(job)
        for output in self.outputs:
            yield output


async def outputs_of(worker: Worker, job: Job) -> list[Any]:
    return [output async for output in checked(worker)(job)]


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ([CHAT], "It is Paris."),
        (STREAM, "It is Paris."),
        ([{"choices": [{"text": "Par"}, {"text": "is"}]}], "Paris"),
        ([MODELS], "llama"),
        ([{"error": "{}"}], ""),
    ],
)
def test_text_is_what_was_answered(outputs: list[Output], text: str) -> None:
    """Wherever a stream was cut into posts."""
    assert text_of(outputs) == text


@pytest.mark.parametrize("outputs", [[CHAT], STREAM], ids=["whole", "streamed"])
async def test_right_answer_passes(outputs: list[Output]) -> None:
    """As it is; and the worker never hears of the expectation."""
    worker = Worker(*outputs)

    assert await outputs_of(worker, {"id": "1", "input": {"messages": [], "expect": "Paris"}}) == outputs
    assert worker.asked == [{"id": "1", "input": {"messages": []}}]


@pytest.mark.parametrize("outputs", [[CHAT], STREAM], ids=["whole", "streamed"])
async def test_wrong_answer_fails_the_job(outputs: list[Output]) -> None:
    """A dict with an error at the end is what the SDK makes a failed job of."""
    *answer, last = await outputs_of(Worker(*outputs), {"id": "1", "input": {"messages": [], "expect": "London"}})
    error = json.loads(last["error"])

    assert answer == outputs
    assert error["error"]["message"] == "Expected 'London' in the answer, which is 'It is Paris.'."
    assert (error["error"]["code"], error["status"]) == ("unexpected_answer", 500)


@pytest.mark.parametrize("job_input", [{"messages": []}, None, "text"])
async def test_job_without_expectation_is_as_ever(job_input: object) -> None:
    worker = Worker(MODELS)

    assert await outputs_of(worker, {"id": "1", "input": job_input}) == [MODELS]
    assert worker.asked == [{"id": "1", "input": job_input}]
