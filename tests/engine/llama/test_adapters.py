"""LoRA adapters on tiny models: the text is that of the merged model, alone and among others."""

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import pytest
from gguf import GGUFReader

from handler.engine.adapter_turns import Adapter
from handler.engine.cache.cache_size import Layout
from handler.engine.engine import Engine
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.model_runner import ModelRunner
from handler.engine.part_size import FixedPartSize
from handler.engine.plan import PrefillPlan
from handler.engine.prefill_lane import PrefillLane
from handler.engine.scheduler import Limits
from handler.engine.structured.grammar import GrammarCompiler
from handler.errors import ModelError
from tests.engine.asking import GREEDY, Answer, ask, assert_same_tokens, forget, read
from tests.engine.llama.tiny_engine import ON_CPU, open_engine, tiny_plan
from tests.tiny_models import Architecture, write_tiny_adapter

Paths = Mapping[Architecture, Path]

SYSTEM = "the world is on the hello of wording and the erring is to the on-ing of the world; "
PROMPTS = ["hello world", SYSTEM + "one", SYSTEM + "two is another"]
PARAMS = replace(GREEDY, num_logprobs=2)
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "gemma3", "mamba")


def adapters_for(architecture: Architecture, folder: Path) -> dict[str, Path]:
    """Two that differ."""
    return {
        name: write_tiny_adapter(folder / f"{architecture}-{name}.gguf", architecture, seed=seed)
        for seed, name in enumerate(("one", "two"), start=1)
    }


def merged(model: Path, adapter: Path, target: Path, scale: float = 1.0) -> Path:
    """The model with the adapter's product added to its matrices."""
    shutil.copy(model, target)
    parts = {tensor.name: tensor.data for tensor in GGUFReader(adapter).tensors}
    for tensor in GGUFReader(target, "r+").tensors:
        if (low := parts.get(f"{tensor.name}.lora_a")) is not None:
            tensor.data[:] += scale * parts[f"{tensor.name}.lora_b"] @ low
    return target


async def ask_with(engine: Engine, prompt: str, adapter: Adapter) -> Answer:
    return await read(await engine.generate([prompt], PARAMS, adapter=adapter))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_an_adapter_s_text_is_the_merged_model_s(
    architecture: Architecture, tiny_model_paths: Paths, tmp_path: Path
) -> None:
    """And not that of the model itself, which is the same as if there were no adapter."""
    path, adapters = tiny_model_paths[architecture], adapters_for(architecture, tmp_path)
    with open_engine(path) as plain:
        without = await ask(plain, PROMPTS[1], PARAMS)
    with open_engine(merged(path, adapters["one"], tmp_path / "merged.gguf")) as whole:
        expected = await ask(whole, PROMPTS[1], PARAMS)
    with open_engine(path, adapters=adapters) as engine:
        applied = await ask_with(engine, PROMPTS[1], "one")
        base = await ask_with(engine, PROMPTS[1], None)

    assert_same_tokens(applied, expected)
    assert_same_tokens(base, without)
    assert applied.token_ids[:3] != base.token_ids[:3]


@pytest.mark.parametrize(
    ("architecture", "kv_unified", "on_gpu"),
    [
        ("llama", "on", False),
        ("llama", "off", False),
        ("llama", "off", True),
        ("gemma3", "on", False),
        ("mamba", "on", False),
    ],
)
async def test_among_others_as_alone(
    architecture: Architecture, kv_unified: Layout, on_gpu: bool, tiny_model_paths: Paths, tmp_path: Path
) -> None:
    """Nine at once with one adapter, another or none, over one system prompt: each says what it says alone."""
    adapters = adapters_for(architecture, tmp_path)
    path = tiny_model_paths[architecture]
    with open_engine(path, adapters=adapters, kv_unified=kv_unified, on_gpu=on_gpu) as engine:
        asked: list[tuple[str, Adapter]] = [(prompt, name) for prompt in PROMPTS for name in (None, *adapters)]
        alone = []
        for prompt, name in asked:
            await forget(engine)
            alone.append(await ask_with(engine, prompt, name))
        await forget(engine)
        together = await asyncio.gather(*(ask_with(engine, prompt, name) for prompt, name in asked))
        again = await asyncio.gather(*(ask_with(engine, prompt, name) for prompt, name in asked))

    for answers in (together, again):
        for answer, reference in zip(answers, alone, strict=True):
            assert_same_tokens(answer, reference)


async def test_the_context_is_told_of_changes_alone(
    tiny_model_paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since each costs it its graphs."""
    calls: list[int] = []
    set_adapters = llama.llama_set_adapters_lora

    def count(context: Any, pointers: Any, number: int, scales: Any) -> int:
        calls.append(number)
        return int(set_adapters(context, pointers, number, scales))

    monkeypatch.setattr(llama, "llama_set_adapters_lora", count)
    with open_engine(tiny_model_paths["llama"], adapters=adapters_for("llama", tmp_path)) as engine:
        for name in (None, None, "one", "one", None):
            await ask_with(engine, PROMPTS[0], name)

    assert calls == [1, 0]


async def test_prompts_beside_answers(tiny_model_paths: Paths, tmp_path: Path) -> None:
    """The prefill context applies each prompt's adapter too."""
    adapters, path = adapters_for("llama", tmp_path), tiny_model_paths["llama"]
    plan = tiny_plan(n_ctx=512, n_batch=256, num_slots=5, is_unified=False, flash_attn="off", cache_type="f32")
    prefill = PrefillPlan(num_streams=4, num_cells=1024, max_tokens=512, max_part=64, part_tokens=16, max_gap=1.8)
    model = LlamaModel(path, ON_CPU)
    model.load_adapters(adapters)
    runner = ModelRunner(model, replace(plan, prefill=prefill))
    context = runner.open_prefill_context()
    assert context is not None
    lane = PrefillLane(context, FixedPartSize(16))
    asked: list[tuple[str, Adapter]] = [
        (3 * SYSTEM[number:], name) for number in range(3) for name in (None, *adapters)
    ]
    with closing(
        Engine(runner, Limits(4, 256, 64), max_queue=9, schemas=GrammarCompiler(runner.vocabulary), lane=lane)
    ) as engine:
        with_lane = await asyncio.gather(*(ask_with(engine, prompt, name) for prompt, name in asked))
        assert lane.num_computed_tokens > 300
    with open_engine(path, adapters=adapters, kv_unified="off") as engine:
        for answer, (prompt, name) in zip(with_lane, asked, strict=True):
            assert_same_tokens(answer, await ask_with(engine, prompt, name))


@pytest.mark.parametrize(
    ("kind", "message"),
    [("missing", "cannot load adapter 'x'"), ("model", "general.type"), ("activated", r"activated one \(aLoRA\)")],
)
def test_what_is_no_adapter_for_it_is_refused(kind: str, message: str, tiny_model_paths: Paths, tmp_path: Path) -> None:
    """With one line that says why."""
    path = {
        "missing": tmp_path / "nothing.gguf",
        "model": tiny_model_paths["llama"],
        "activated": write_tiny_adapter(tmp_path / "activated.gguf", "llama", invocation_tokens=[5, 6]),
    }[kind]
    with closing(LlamaModel(tiny_model_paths["llama"], ON_CPU)) as model:
        with pytest.raises(ModelError, match=message) as caught:
            model.load_adapters({"x": path})
        assert "\n" not in str(caught.value)


def test_an_adapter_of_another_architecture_is_refused(tiny_model_paths: Paths, tmp_path: Path) -> None:
    """By llama.cpp."""
    adapter = write_tiny_adapter(tmp_path / "other.gguf", "qwen2")
    with (
        closing(LlamaModel(tiny_model_paths["llama"], ON_CPU)) as model,
        pytest.raises(ModelError, match="arch mismatch"),
    ):
        model.load_adapters({"x": adapter})
