"""Writes from handler/settings.py what must agree with it: docs/configuration.md, and the inputs in .runpod/hub.json.

`make docs` runs it; tests/test_configuration.py and tests/test_hub.py fail where it should have been run.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

from handler.settings import Settings, names_of  # noqa: E402

CONFIGURATION = ROOT / "docs" / "configuration.md"
HUB = ROOT / ".runpod" / "hub.json"

# Every setting, and what a form calls it.
SECTIONS: dict[str, dict[str, str]] = {
    "The model": {
        "model": "Model",
        "model_alias": "Served names",
        "loras": "LoRA adapters",
        "chat_template": "Chat template",
        "tool_format": "Format of tool calls",
        "spm_infill": "Suffix before prefix",
        "reasoning_format": "Where reasoning goes",
        "reasoning_twice": "Reasoning under both names",
        "task": "Task",
        "pooling": "Pooling",
        "mmproj": "Projector for images and sounds",
        "image_min_tokens": "Tokens of an image, at least",
        "image_max_tokens": "Tokens of an image, at most",
        "media_urls": "Fetch images by URL",
        "media_max_bytes": "Bytes of a request's images and sounds",
        "hf_token": "Hugging Face token",
        "hf_endpoint": "Hugging Face address",
        "models_dir": "Downloads",
        "volume_dir": "Network volume",
    },
    "Memory and speed": {
        "n_ctx": "Cache size in tokens",
        "max_model_len": "Longest sequence in tokens",
        "max_num_seqs": "Sequences at once",
        "max_queue": "Waiting sequences",
        "prefill_context": "Prompts beside answers",
        "prefill_part": "Prompt tokens beside answers",
        "prefill_gap": "Gaps beside prompts",
        "n_batch": "Tokens per step",
        "n_ubatch": "Tokens at once within a step",
        "prefill_chunk": "Prompt tokens per step",
        "weights": "Weights in memory",
        "n_gpu_layers": "Layers on the GPU",
        "n_threads": "CPU threads",
        "sampler_threads": "Sampling threads",
        "flash_attn": "Flash attention",
        "swa_full": "Whole cache for sliding windows",
        "kv_unified": "Sequences share cells",
        "cache_type_k": "Type of cached keys",
        "cache_type_v": "Type of cached values",
        "split_mode": "Split over GPUs",
        "main_gpu": "Main GPU",
        "tensor_split": "Shares of the GPUs",
        "seeded": "What a seed promises",
        "speculate": "Speculative decoding",
        "num_draft_tokens": "Drafted tokens",
    },
    "RunPod jobs": {
        "max_concurrency": "Jobs at once",
        "log_level": "Log level",
    },
    "HTTP": {
        "serve": "Serve HTTP",
        "host": "Address",
        "port": "Port",
        "api_key": "API key",
        "max_body_bytes": "Largest request body in bytes",
        "drain_seconds": "Time to finish in seconds",
    },
    "Not for you to set": {
        "runpod_webhook_get_job": "",
        "runpod_realtime_port": "",
        "check_answers": "",
    },
}
NOT_ON_HUB = "Not for you to set"

# Where the image, or a listing on the Hub, says something else than the code. Forms send what they show.
IMAGE_DEFAULTS = {"host": "0.0.0.0", "models_dir": "/models"}  # noqa: S104 (of a container)
HUB_DEFAULTS = {**IMAGE_DEFAULTS, "model": "unsloth/Qwen3-4B-Instruct-2507-GGUF:Q4_K_M"}
NOT_ADVANCED = ("model", "model_alias", "hf_token", "n_ctx", "max_model_len", "max_num_seqs")

HEAD = """\
# Configuration

Written by `make docs` from `handler/settings.py`; change it there.

Every setting is an environment variable. An empty one counts as unset. A wrong value stops the worker at its start,
with one line that names variable and value. `python -m handler serve` takes `--model`, `--host` and `--port` too, and
they override the environment; `python -m handler` and `fetch` take `--model`.

The image sets {image_defaults}.
"""

FOOT = """\
## Names from elsewhere

Variables of worker-vllm and of llama-server work where they mean the same:

| here | there |
|---|---|
{aliases}

If two names of one setting are set to different values, the worker does not start and names both: it cannot know which
one is meant, and would otherwise serve a configuration that was not asked for.

`N_CTX` and `MAX_MODEL_LEN` are not the same. `N_CTX` is memory: how many tokens the cache holds for all sequences
together. llama-server's context size is that too. `MAX_MODEL_LEN`, as in vLLM, limits one sequence, prompt and answer
together; it takes no memory, and keeps one long request from taking the whole cache. It may be at most `N_CTX`, and at
most what the model was trained for. Alone, it also makes the cache at least that large.

These of worker-vllm have another form here:

| there | here |
|---|---|
| `MODEL_REVISION` | `MODEL=org/name:QUANT@revision` |
| `QUANTIZATION` | `MODEL=org/name:QUANT` |
| `GPU_MEMORY_UTILIZATION` | `N_CTX`: the cache takes what it says, at the start |
| `BASE_PATH` | `VOLUME_DIR` to look for models, `MODELS_DIR` to download them to |
| `MAX_NUM_BATCHED_TOKENS` | `N_BATCH` |
| `DISABLE_LOG_REQUESTS` | prompts and answers are never logged |
"""


def configuration() -> str:
    image_defaults = " and ".join(f"`{name.upper()}={value}`" for name, value in IMAGE_DEFAULTS.items())
    sections = (_section(title, list(names)) for title, names in SECTIONS.items())
    aliases = (
        f"| `{setting.upper()}` | {', '.join(f'`{name}`' for name in others)} |"
        for setting in Settings.model_fields
        if (others := names_of(setting)[1:])
    )
    return "\n".join([HEAD.format(image_defaults=image_defaults), *sections, FOOT.format(aliases="\n".join(aliases))])


def _section(title: str, names: list[str]) -> str:
    rows = (f"| `{name.upper()}` | {_default_shown(name)} | {_field(name).description} |" for name in names)
    return "\n".join([f"## {title}\n", "| variable | default | |", "|---|---|---|", *rows, ""])


def _default_shown(name: str) -> str:
    default = _default(name)
    return f"`{default}`" if default != "" else ""


def _field(name: str) -> FieldInfo:
    return Settings.model_fields[name]


def _default(name: str) -> str:
    """As an environment variable would have it."""
    default = _field(name).default
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def hub_inputs() -> list[dict[str, Any]]:
    """`config.env` of hub.json."""
    return [
        {"key": name.upper(), "input": _hub_input(name, title)}
        for section, names in SECTIONS.items()
        if section != NOT_ON_HUB
        for name, title in names.items()
    ]


def _hub_input(name: str, title: str) -> dict[str, Any]:
    field = _field(name)
    entry: dict[str, Any] = {
        "name": title,
        "type": "string",
        "description": str(field.description).replace("`", ""),
        "default": HUB_DEFAULTS.get(name, _default(name)),
        "required": name == "model",
        "advanced": name not in NOT_ADVANCED,
    }
    if field.annotation is bool:
        entry |= {"type": "boolean", "default": field.default, "trueValue": "true", "falseValue": "false"}
    elif field.annotation is int:
        entry |= {"type": "number", "default": field.default, **_limits(field)}
    elif get_origin(field.annotation) is Literal:
        entry["options"] = [{"label": option, "value": option} for option in get_args(field.annotation)]
    return {key: value for key, value in entry.items() if value != ""}


def _limits(field: FieldInfo) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        if (least := getattr(limit, "ge", None)) is not None:
            limits["min"] = least
        if (most := getattr(limit, "le", None)) is not None:
            limits["max"] = most
    return limits


def hub(text: str) -> str:
    """The listing with its inputs as they should be; all else in it is written by hand."""
    listing = json.loads(text)
    listing["config"]["env"] = hub_inputs()
    return json.dumps(listing, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    CONFIGURATION.write_text(configuration(), encoding="utf-8")
    HUB.write_text(hub(HUB.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
