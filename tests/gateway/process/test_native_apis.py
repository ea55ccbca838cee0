"""Responses and Anthropic's Messages that the worker answers itself, through the gateway, by the official clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError
from openai import AsyncOpenAI

from tests.contract.stage import SETTINGS, Model, stage
from tests.gateway.gateway_process import GatewayProcess, rows, running
from tests.tiny_models import write_tiny_model
from tests.waiting import eventually

TIMEOUT = 60.0
USAGE = "SELECT path, num_prompt_tokens, num_completion_tokens FROM gateway_usage ORDER BY id"
HI: Any = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def gateway_to(kind: str, folder: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway whose model `m` is a tiny one: of a worker of its own, or on an emulated RunPod."""
    model = Model(write_tiny_model(folder / "tiny.gguf", "llama", context_length=512), folder)
    if kind == "local":
        env = {key: value for key, value in model.env.items() if key in ("N_THREADS", "HOME", "MODEL_ALIAS")}
        target: dict[str, Any] = {"type": "local", "gguf": str(model.path), "model": "model", "env": env}
        async with running(folder, {"models": {"m": {"targets": [target]}}}) as gateway:
            yield gateway
        return
    command: dict[str, Any] = {"kind": "load_balancing", "env": {"SERVE": "true"}} if kind == "runpod_lb" else {}
    async with stage(model, settings=SETTINGS, **command) as here:
        path = "lb/ep/v1" if kind == "runpod_lb" else "v2"
        target = {"type": kind, "base_url": f"{here.emulator.url}/{path}", "endpoint_id": "ep", "chat_only": False}
        target |= {"api_key": here.emulator.settings.client_key, "model": "model"}
        async with running(folder, {"models": {"m": {"targets": [target]}}}) as gateway:
            yield gateway


@pytest.mark.parametrize("kind", ["local", "runpod_queue", "runpod_lb"])
async def test_native_answers(kind: str, tmp_path: Path) -> None:
    """Whole, streamed and counted, by every way to a worker; what only the worker itself can tell arrives, and the
    gateway's records have the tokens."""
    async with gateway_to(kind, tmp_path) as gateway:
        async with AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=TIMEOUT) as claude:
            ask: Any = {"model": "m", "messages": HI, "extra_body": {"temperature": 0}}
            message = await claude.messages.create(**ask, max_tokens=8)
            async with claude.messages.stream(**ask, max_tokens=8) as stream:
                events = [event async for event in stream]
                streamed = await stream.get_final_message()
            full = await claude.messages.create(**ask | {"extra_body": {"ignore_eos": True}}, max_tokens=5000)
            count = await claude.messages.count_tokens(model="m", messages=HI)
            with pytest.raises(BadRequestError, match="thread"):
                await claude.messages.create(model="m", messages=HI, max_tokens=8, extra_body={"thread": {"id": "1"}})
        async with AsyncOpenAI(base_url=gateway.api, api_key="none", max_retries=0, timeout=TIMEOUT) as client:
            fields: Any = {"model": "m", "input": HI, "temperature": 0, "max_output_tokens": 8}
            response = await client.responses.create(**fields, top_logprobs=1)
            last = [event async for event in await client.responses.create(**fields, stream=True)][-1]
        records = await eventually(lambda: found if len(found := rows(gateway.database, USAGE)) >= 6 else [], TIMEOUT)

    num_prompt = count.input_tokens
    assert [block.to_dict() for block in streamed.content] == [block.to_dict() for block in message.content]
    assert events[0].type == "message_start"
    started = events[0].message.usage
    assert started.input_tokens + (started.cache_read_input_tokens or 0) == num_prompt
    assert full.stop_reason == "model_context_window_exceeded"
    assert response.output[0].type == "message"
    assert response.output[0].content[0].type == "output_text"
    assert len(response.output[0].content[0].logprobs or []) == 8
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text
    assert ("/messages", num_prompt, 8) in records
    assert ("/responses", num_prompt, 8) in records
    assert {count for path, count, _ in records if path in ("/messages", "/responses")} <= {num_prompt, 0}
