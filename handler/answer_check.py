"""For tests alone: jobs that say what their answer must contain, and fail if it does not.

    {"expect": "Paris", ...}    under job["input"], beside what the worker is asked

RunPod's Hub only looks whether the jobs in .runpod/tests.json are completed, and a wrong answer completes a job. With
CHECK_ANSWERS=true it does not. Workers do without this otherwise.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any

from handler.errors import EngineError, to_response
from handler.job import Handler
from handler.job_run import Job, Output

KEY = "expect"


def checked(handler: Handler) -> Handler:
    """The handler, for jobs that may expect something."""

    async def handle(job: Job) -> AsyncGenerator[Output, None]:
        asked, expected = _without_expectation(job)
        outputs: list[Output] = []
        async for output in handler(asked):
            outputs.append(output)
            yield output
        if expected not in (text := text_of(outputs)):
            status, body = to_response(
                EngineError(f"Expected {expected!r} in the answer, which is {text!r}.", code="unexpected_answer")
            )
            yield {"error": json.dumps({**body, "status": status})}

    return handle


def _without_expectation(job: Job) -> tuple[Job, str]:
    """The job as the worker knows it, and what its answer must contain."""
    given = job.get("input")
    if not isinstance(given, dict) or KEY not in given:
        return job, ""
    return {**job, "input": {key: value for key, value in given.items() if key != KEY}}, str(given[KEY])


def text_of(outputs: Iterable[Output]) -> str:
    """What was answered, in one piece; of all choices, one after the other."""
    outputs = list(outputs)
    events = "".join(output for output in outputs if isinstance(output, str))
    answers = [output for output in outputs if isinstance(output, dict)]
    return "".join(_texts([*answers, *_data_of(events)]))


def _data_of(events: str) -> Iterator[Any]:
    for line in events.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _texts(answers: Iterable[Any]) -> Iterator[str]:
    """Of completions, chat completions, and their chunks; of a list of models, their names; of vectors, nothing."""
    for answer in answers:
        for choice in answer.get("choices", ()):
            message = choice.get("message") or choice.get("delta") or {}
            yield choice.get("text") or message.get("content") or ""
        for model in answer.get("data", ()):
            yield model.get("id", "")
