"""Vectors and rankings through the gateway, from workers on an emulated RunPod and from one on this machine."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from gguf import PoolingType
from openai import AsyncOpenAI

from tests.contract.stage import SETTINGS, Model, stage
from tests.gateway.gateway_process import GatewayProcess, rows, running
from tests.tiny_encoders import write_tiny_encoder
from tests.waiting import eventually

TIMEOUT = 60.0
USAGE = "SELECT path, num_prompt_tokens, num_completion_tokens, status FROM gateway_usage"


def encoder(folder: Path, pooling: PoolingType = PoolingType.MEAN) -> Model:
    return Model(write_tiny_encoder(folder / "encoder.gguf", pooling=pooling), folder)


async def vectors(gateway: GatewayProcess, model: str, **fields: Any) -> list[list[float]]:
    """Of two texts; the gateway's record has their tokens."""
    async with AsyncOpenAI(base_url=gateway.api, api_key="none", max_retries=0, timeout=TIMEOUT) as client:
        answer = await client.embeddings.create(model=model, input=["hello world", "paris is in france"], **fields)
    assert answer.usage.prompt_tokens == 10
    return [item.embedding for item in answer.data]


async def usage(gateway: GatewayProcess) -> list[Any]:
    return await eventually(lambda: rows(gateway.database, USAGE), TIMEOUT)


@pytest.mark.parametrize("kind", ["queue", "load_balancing"])
async def test_a_worker_on_runpod(kind: str, tmp_path: Path) -> None:
    """By its queue, or by its own address: the same vectors by base64 and by numbers, and a record of the tokens."""
    command: dict[str, Any] = {}
    if kind == "load_balancing":
        command = {"kind": kind, "env": {"SERVE": "true"}}
    async with stage(encoder(tmp_path), settings=SETTINGS, **command) as here:
        common = {"endpoint_id": "ep", "api_key": here.emulator.settings.client_key, "model": "model"}
        target = {"type": "runpod_queue", "base_url": f"{here.emulator.url}/v2", **common}
        if kind == "load_balancing":
            target = {"type": "runpod_lb", "base_url": f"{here.emulator.url}/lb/ep/v1", **common}
        async with running(tmp_path, {"models": {"vectors": {"targets": [target]}}}) as gateway:
            coded = await vectors(gateway, "vectors")
            plain = await vectors(gateway, "vectors", encoding_format="float")
            records = await usage(gateway)

    assert coded == plain
    assert np.linalg.norm(coded, axis=1) == pytest.approx(1)
    assert records[0] == ("/embeddings", 10, 0, 200)


async def test_a_worker_on_this_machine(tmp_path: Path) -> None:
    """Which the gateway starts; a ranking has its tokens in the record, too."""
    model = encoder(tmp_path, PoolingType.RANK)
    settings = {key: value for key, value in model.env.items() if key in ("N_THREADS", "HOME", "MODEL_ALIAS")}
    target = {"type": "local", "gguf": str(model.path), "model": "model", "env": settings}
    async with running(tmp_path, {"models": {"ranker": {"targets": [target]}}}) as gateway:
        body = {"model": "ranker", "query": "paris", "documents": ["paris is in france", "rome"], "top_n": 1}
        async with asyncio.timeout(TIMEOUT), aiohttp.ClientSession() as session:
            async with session.post(f"{gateway.api}/rerank", json=body) as response:
                answer = await response.json()
            records = await usage(gateway)

    assert response.status == 200, answer
    assert len(answer["results"]) == 1
    assert 0 <= answer["results"][0]["relevance_score"] <= 1
    assert records[0] == ("/rerank", answer["usage"]["prompt_tokens"], 0, 200)
