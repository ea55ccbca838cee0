"""The worker's log: whose job it was, and nothing of what was asked or answered."""

import pytest

from tests.contract.stage import Stage, content

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "xylophone"
MESSAGES = [{"role": "user", "content": SECRET}]
JOBS = [
    {"messages": MESSAGES, "max_tokens": 40, "temperature": 0},
    {"messages": MESSAGES, "max_tokens": 40, "temperature": 0, "stream": True},
    {"prompt": f"{SECRET} " * 3000},
    {"messages": MESSAGES, "temperature": SECRET},
    {"messages": MESSAGES, SECRET: True, "tool_choice": SECRET, "stream": True},
    {"openai_route": f"/v1/{SECRET}", "openai_input": {"messages": MESSAGES}},
    {"messages": [{"role": SECRET, "content": SECRET}]},
    {SECRET: SECRET},
    SECRET,
]


async def test_log(shared: Stage) -> None:
    """At its default level, with what the SDK prints by itself."""
    jobs = [await shared.ends(await shared.run(job_input)) for job_input in JOBS]
    await shared.prints(f"job {jobs[-1]['id']}: failed")

    printed = shared.printed()
    answers = [jobs[0]["output"][0]["choices"][0]["message"]["content"], content("".join(jobs[1]["output"]))]
    for job in jobs:
        assert f"job {job['id']}: started" in printed
    for text in (SECRET, "choices", "data: ", "DEBUG", *answers):
        assert text
        assert text not in printed
