"""The demo model scores prompts, and computes the prompt of several choices once. Counted, not timed."""

import re
import secrets
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np
import numpy.typing as npt
import openai
import pytest
import requests

from handler.engine.llama.context import native_params
from handler.engine.llama.model import LlamaModel
from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.settings import Settings
from tests.end_to_end.program import Server
from tests.engine.llama.tiny_engine import ON_CPU, tiny_plan

pytestmark = pytest.mark.model

TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs: ägypten, 東京, 🙂. " * 5
EXACT = 1e-3


class Reference(NamedTuple):
    token_ids: list[int]
    logprobs: npt.NDArray[np.float64]  # (num_tokens, vocabulary): of what follows each token


@pytest.fixture(scope="session")
def reference(server: Server) -> Reference:
    """The text's tokens, and the log-softmax of llama.cpp's own logits, computed in the same parts: the order of its
    sums depends on them, and by it such weights give logprobs that differ by some hundredths."""
    path = next(Settings.from_env({}).models_dir.expanduser().rglob("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))
    answer = requests.post(f"{server.url}/tokenize", json={"content": TEXT}, timeout=60)
    token_ids = answer.json()["tokens"]
    model = LlamaModel(path, ON_CPU)
    plan = tiny_plan(n_ctx=1024, n_batch=MAX_SCORED_TOKENS)
    context = llama.llama_init_from_model(model.pointer, native_params(plan.context, plan.cache))
    num_tokens = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.pointer))
    parts = []
    for start in range(0, len(token_ids), MAX_SCORED_TOKENS):
        part = token_ids[start : start + MAX_SCORED_TOKENS]
        size = len(part)
        batch = llama.llama_batch_init(size, 0, 1)
        batch.n_tokens = size
        for place in range(size):
            batch.token[place], batch.pos[place], batch.logits[place] = part[place], start + place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        rows = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=(size, num_tokens))
        parts.append(rows.astype(np.float64))
        llama.llama_batch_free(batch)
    logits = np.concatenate(parts)
    llama.llama_free(context)
    model.close()
    peaks = logits.max(axis=1, keepdims=True)
    return Reference(token_ids, logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_scores_are_llama_cpp_s(client: openai.AsyncOpenAI, reference: Reference, max_tokens: int) -> None:
    """As evaluation harnesses ask: every token of the prompt but the first has its logprob, and the likeliest one's."""
    answer = await client.completions.create(
        model="llama",
        prompt=reference.token_ids,
        echo=True,
        logprobs=1,
        max_tokens=max_tokens,
        seed=1,  # begins with an empty cache, as the reference does
    )
    logprobs = answer.choices[0].logprobs

    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    num_tokens = len(reference.token_ids)
    assert answer.choices[0].text.startswith(TEXT)
    assert len(logprobs.token_logprobs) == num_tokens + max_tokens
    assert logprobs.token_logprobs[0] is None
    expected = reference.logprobs[np.arange(num_tokens - 1), reference.token_ids[1:]]
    assert np.abs(np.array(logprobs.token_logprobs[1:num_tokens]) - expected).max() < EXACT
    best = [max(top.values()) for top in logprobs.top_logprobs[1:num_tokens]]
    assert np.abs(np.array(best) - reference.logprobs[:-1].max(axis=1)).max() < EXACT


@pytest.mark.parametrize("fields", [{"n": 4}, {"best_of": 4}, {"n": 4, "echo": True, "logprobs": 1}])
async def test_choices_share_their_prompt(
    client: openai.AsyncOpenAI, server: Server, fields: dict[str, object]
) -> None:
    """The engine computes each of its tokens once, and its last one for each choice."""
    prompt = f"{secrets.token_hex(8)}: {TEXT}"  # nothing of it is cached
    before = num_computed_tokens(server)
    answer = await client.completions.create(
        model="llama", prompt=prompt, max_tokens=4, extra_body={"ignore_eos": True, **fields}
    )

    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert num_computed_tokens(server) - before == answer.usage.prompt_tokens + 3


def num_computed_tokens(server: Server) -> int:
    """Prompt tokens that were computed since the server started."""
    text = requests.get(f"{server.url}/metrics", timeout=60).text
    [prompts, cached] = [
        int(re.findall(rf"^engine_{name}_tokens_total (\d+)$", text, re.MULTILINE)[0]) for name in ("prompt", "cached")
    ]
    return prompts - cached
