"""The demo model, a coder's, fills in the middle: over HTTP and as jobs."""

import json

import httpx
import openai
import pytest

from tests.end_to_end.program import Server

pytestmark = pytest.mark.model

PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


async def test_suffix(client: openai.AsyncOpenAI) -> None:
    """OpenAI's field."""
    answer = await client.completions.create(
        model="llama", prompt=PREFIX, suffix=SUFFIX, temperature=0, max_tokens=-1, stop="\n"
    )

    assert answer.choices[0].text.strip() == "a + b"


@pytest.mark.parametrize("route", ["/infill", "/v1/infill"])
async def test_infill(server: Server, route: str) -> None:
    """llama-server's route, whole and streamed alike; the second time what stands before the gap is cached."""
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "temperature": 0, "n_predict": 32, "stop": ["\n"]}
    body |= {"input_extra": [{"filename": "sub.py", "text": "def sub(a, b):\n    return a - b\n"}]}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        answer = (await http.post(route, json=body)).json()
        streamed = (await http.post(route, json={**body, "stream": True})).text

    events = [json.loads(event.removeprefix("data: ")) for event in streamed.strip().split("\n\n")]
    assert answer["content"].strip() == "a + b"
    assert "".join(event["content"] for event in events) == answer["content"]
    assert events[-1]["tokens_cached"] > 0
