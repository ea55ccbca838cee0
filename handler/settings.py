"""The worker's settings: the only reader of the environment.

A setting's environment variable is its name in upper case; some have other names too, by which they go elsewhere. An
empty variable counts as unset, because RunPod's console sends empty strings. A wrong value stops the start with a
`ConfigError` that names key and value.
"""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.functional_validators import BeforeValidator

from handler.errors import ConfigError


def _split_commas(value: object) -> object:
    return _parts(value) if isinstance(value, str) else value


def _parts(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Shares = Annotated[tuple[float, ...], BeforeValidator(_split_commas)]


def _parse_loras(value: object) -> object:
    """Pairs out of `name=source,name=source`."""
    if not isinstance(value, str):
        return value
    named = [part.partition("=") for part in _parts(value)]
    pairs = tuple((name.strip(), source.strip()) for name, _, source in named)
    if not all(name and source for name, source in pairs):
        raise ValueError("it must be name=source, or several of them separated by commas")
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return pairs


Loras = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_parse_loras)]
CacheType = Literal["auto", "f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

# What worker-vllm, llama-server and other llama.cpp workers call the same things.
ALIASES = {
    "model": ("MODEL_NAME", "LLAMA_MODEL_FILE", "LLAMA_ARG_MODEL"),
    "model_alias": ("OPENAI_SERVED_MODEL_NAME_OVERRIDE", "LLAMA_ARG_ALIAS"),
    "chat_template": ("CUSTOM_CHAT_TEMPLATE", "LLAMA_ARG_CHAT_TEMPLATE_FILE"),
    "pooling": ("LLAMA_ARG_POOLING",),
    "mmproj": ("LLAMA_ARG_MMPROJ",),
    "image_min_tokens": ("LLAMA_ARG_IMAGE_MIN_TOKENS",),
    "image_max_tokens": ("LLAMA_ARG_IMAGE_MAX_TOKENS",),
    "n_ctx": ("LLAMA_CONTEXT_SIZE", "LLAMA_ARG_CTX_SIZE"),
    "max_num_seqs": ("LLAMA_ARG_N_PARALLEL",),
    "n_batch": ("LLAMA_ARG_BATCH",),
    "n_ubatch": ("LLAMA_ARG_UBATCH",),
    "n_gpu_layers": ("LLAMA_ARG_N_GPU_LAYERS",),
    "n_threads": ("LLAMA_ARG_THREADS",),
    "flash_attn": ("LLAMA_ARG_FLASH_ATTN",),
    "swa_full": ("LLAMA_ARG_SWA_FULL",),
    "cache_type_k": ("LLAMA_ARG_CACHE_TYPE_K",),
    "cache_type_v": ("LLAMA_ARG_CACHE_TYPE_V",),
    "split_mode": ("LLAMA_ARG_SPLIT_MODE",),
    "main_gpu": ("LLAMA_ARG_MAIN_GPU",),
    "tensor_split": ("LLAMA_ARG_TENSOR_SPLIT",),
    "host": ("LLAMA_ARG_HOST",),
    "port": ("LLAMA_ARG_PORT",),
    "api_key": ("LLAMA_API_KEY",),
}

# Settings, or single values of one, that this worker once had: (variable, value; None: any value) and what to do.
NO_DRAFT_MODEL = "a second model that drafts is no longer supported. "
REMOVED: dict[tuple[str, str | None], str] = {
    ("SPECULATE", "draft"): NO_DRAFT_MODEL + "Set it to lookup or off.",
    ("DRAFT_MODEL", None): NO_DRAFT_MODEL + "Unset it; SPECULATE=lookup drafts without one.",
}


class Settings(BaseModel):
    """What can be set, with units and defaults. 0 means "choose for me" where the description says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "demo",
        min_length=1,
        description="`demo`, a path, `org/name:QUANT`, `org/name/file.gguf` (`@revision` may follow), or an https URL.",
    )
    model_alias: Names = Field(
        (), description="Names the model is served under, separated by commas; the first is the one in answers."
    )
    loras: Loras = Field(
        (),
        description="LoRA adapters in GGUF, as `name=source`, separated by commas; sources are what MODEL may be. "
        "Requests choose one by its name as their `model`. Steps serve one at a time, in turns.",
    )
    chat_template: str = Field("", description="A Jinja chat template, or a path to one, instead of the model's own.")
    tool_format: str = Field(
        "",
        description="How the model writes calls of tools, for finetunes that do not write what their template shows: "
        "a name of `handler/chat/formats/families.py`. Empty: found by the template.",
    )
    spm_infill: bool = Field(
        False,
        description="`suffix` and `/infill` put the suffix before the prefix, for models that were trained so; "
        "llama-server's `--spm-infill`.",
    )
    reasoning_format: Literal["split", "keep", "hide"] = Field(
        "split",
        description="Where reasoning goes: into `reasoning_content`, into the content with its markers, or nowhere. "
        "A request's `reasoning_format` or `include_reasoning` goes first.",
    )
    reasoning_twice: bool = Field(
        False, description="Send reasoning as `reasoning` too, the name that OpenRouter's and vLLM's clients read."
    )
    task: Literal["auto", "generate", "embed", "rerank"] = Field(
        "auto",
        description="What the worker does with the model: chats and completions, /v1/embeddings, or /v1/rerank. "
        "auto: by the file, whose pooling or architecture says it; others generate.",
    )
    pooling: Literal["auto", "mean", "cls", "last", "rank"] = Field(
        "auto",
        description="How the tokens of an input become one vector, or a score. auto: as the file says; else the mean "
        "for encoders, and the last for others with TASK=embed.",
    )
    mmproj: str = Field(
        "auto",
        min_length=1,
        description="The projector by which the model sees images or hears sounds: named as MODEL is, with its file. "
        "auto: `mmproj*.gguf` beside the model, if there is one that fits it; off: none.",
    )
    image_min_tokens: int = Field(
        0,
        ge=0,
        description="Tokens that an image takes at least, for projectors that take images of any size: small ones are "
        "enlarged. Qwen-VL finds things in images only with 1024 and more. 0: the projector's own.",
    )
    image_max_tokens: int = Field(
        0, ge=0, description="Tokens that it takes at most: larger ones are reduced. 0: the projector's own."
    )
    media_urls: bool = Field(
        False,
        description="Fetch images that requests name by http and https URLs, from public addresses only. Otherwise "
        "they must come as data: URLs.",
    )
    media_max_bytes: int = Field(
        20_000_000,
        ge=1,
        description="Bytes of all images and sounds of a request, at most. What stands in the request itself is "
        "bounded by MAX_BODY_BYTES too.",
    )
    hf_token: SecretStr = Field(SecretStr(""), description="Hugging Face token for gated or private repositories.")
    hf_endpoint: str = Field("https://huggingface.co", min_length=1, description="Hugging Face, or a mirror of it.")
    models_dir: Path = Field(Path("~/.cache/gguf-models"), description="Where downloads are kept on this machine.")
    volume_dir: Path = Field(
        Path("/runpod-volume"), description="RunPod's network volume, which also holds its cached models."
    )

    n_ctx: int = Field(
        0,
        ge=0,
        description="Tokens the KV cache holds for all sequences. "
        "0: on a GPU, 8192 for each of MAX_NUM_SEQS as far as they fit; else the model's training context, at most "
        "32768, or MAX_MODEL_LEN if that is more.",
    )
    max_model_len: int = Field(
        0, ge=0, description="Tokens of one sequence, prompt and answer, at most. 0: as many as model and cache allow."
    )
    n_batch: int = Field(
        0, ge=0, description="Tokens of one engine step (decode and prefill), at most. 0: 1024 on a GPU, 512 on a CPU."
    )
    n_ubatch: int = Field(
        512, ge=1, description="Tokens that llama.cpp computes in one piece; N_BATCH for models with sliding windows."
    )
    prefill_chunk: int = Field(
        0, ge=0, description="Prefill tokens of a step in which other sequences decode. 0: 96 on a GPU, 64 on a CPU."
    )
    prefill_context: Literal["auto", "off"] = Field(
        "auto",
        description="A second context on the same weights computes prompts while others generate. "
        "auto: on a GPU, where each sequence has cells of its own.",
    )
    prefill_part: int = Field(
        0,
        ge=0,
        description="Prompt tokens the second context computes at once beside running answers: more are faster in all, "
        "fewer disturb the answers less. 0: as many as PREFILL_GAP allows, by the steps' measured times.",
    )
    prefill_gap: float = Field(
        1.8,
        gt=1,
        le=10,
        description="How long a step may take beside a part of a prompt, as a multiple of a quiet one; one in ten may "
        "take longer. Less is steadier, more is faster in all.",
    )
    max_num_seqs: int = Field(
        0,
        ge=0,
        le=128,
        description="Sequences that generate at the same time. 0: 16, and on a GPU up to 64 where each has room for "
        "cells of its own.",
    )
    max_queue: int = Field(64, ge=0, description="Sequences that may wait to run; one more is refused with 503.")
    weights: Literal["auto", "file", "16bit"] = Field(
        "auto",
        description="How weights are kept in memory. file: as the file has them. 16bit: quantised matrices are "
        "expanded to BF16 while they load, which takes 3.5 times a Q4_0 file's memory: on a GPU prompts and many chats "
        "at once are faster, few chats slower. auto: as the file has them, and where one GPU has the room, once more "
        "in 16 bits for PREFILL_CONTEXT, loaded after the start; not for models of experts.",
    )
    n_gpu_layers: int = Field(-1, ge=-1, description="Layers on the GPU. -1: all; 0: none, and the limits of a CPU.")
    n_threads: int = Field(0, ge=0, description="CPU threads of llama.cpp. 0: one per core.")
    sampler_threads: int = Field(0, ge=0, description="Threads that sample. 0: one per core, at most 12.")
    flash_attn: Literal["auto", "on", "off"] = Field("auto", description="llama.cpp's flash attention.")
    swa_full: bool = Field(
        True, description="Keep the full-size cache of sliding-window models, so that prefixes can be reused."
    )

    kv_unified: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether all sequences share the KV cache's cells. Steps of many sequences are shorter if each has "
        "its own, which takes room for MAX_MODEL_LEN in all of them. auto: its own where a GPU has that room.",
    )
    cache_type_k: CacheType = Field(
        "auto",
        description="Type of the KV cache's keys. "
        "auto: f16, or q8_0 where N_CTX, or one long sequence, would not fit the GPU otherwise.",
    )
    cache_type_v: CacheType = Field("auto", description="Type of its values; quantised ones need FLASH_ATTN.")
    split_mode: Literal["none", "layer", "row", "tensor"] = Field(
        "layer", description="How several GPUs share a model."
    )
    main_gpu: int = Field(0, ge=0, description="The GPU that holds the whole model where SPLIT_MODE is none.")
    tensor_split: Shares = Field(
        (), description="Each GPU's share, as numbers separated by commas. Empty: by their free memory."
    )

    seeded: Literal["fast", "exact"] = Field(
        "fast",
        description="What a request's seed promises. fast: it is computed with the others, and its text may part from "
        "that of another time where two tokens are nearly as likely. exact: the same text, byte by byte, whatever else "
        "runs; each such request is computed in steps of its own, between those of the others. Each sequence "
        "needs cells of its own then, see KV_UNIFIED, and on a CPU MAX_MODEL_LEN or N_CTX must be set.",
    )
    speculate: Literal["off", "lookup"] = Field(
        "off",
        description="Speculative decoding at low concurrency; output is unchanged. "
        "lookup: drafts come from what the sequence repeats of its prompt or itself.",
    )
    num_draft_tokens: int = Field(12, ge=1, le=32, description="Tokens of one draft, at most.")

    serve: bool = Field(
        False, description="Serve HTTP as `python -m handler serve` does: for load-balancing endpoints and pods."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address `serve` listens on.")
    port: int = Field(8001, ge=1, le=65535, description="Port `serve` listens on.")
    drain_seconds: int = Field(60, ge=0, description="How long `serve` finishes running requests when it is stopped.")
    api_key: SecretStr = Field(SecretStr(""), description="Bearer key `serve` asks for. Empty: none.")
    max_body_bytes: int = Field(4_000_000, ge=1, description="Largest request body `serve` reads, in bytes.")
    max_concurrency: int = Field(
        0, ge=0, description="Jobs taken from RunPod at the same time. 0: MAX_NUM_SEQS and a quarter more."
    )
    check_answers: bool = Field(False, description="Let jobs say what their answer must contain: for tests.")
    runpod_webhook_get_job: str = Field("", description="Set by RunPod: where jobs come from.")
    runpod_realtime_port: int = Field(0, ge=0, le=65535, description="Set by RunPod: port of its realtime API.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Prompts and answers are never logged, at any level."
    )

    @property
    def is_in_runpod(self) -> bool:
        return bool(self.runpod_webhook_get_job or self.runpod_realtime_port)

    def num_concurrent_jobs(self, max_num_seqs: int) -> int:
        """Jobs taken from RunPod at once, by an engine that runs so many sequences: a few more than run at once."""
        return self.max_concurrency or max_num_seqs + max(1, max_num_seqs // 4)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from environment variables; raise ConfigError for a wrong one."""
        _refuse_removed(environ)
        keys = {name: key for name in cls.model_fields if (key := _key_of(name, environ))}
        try:
            settings = cls.model_validate({name: environ[key] for name, key in keys.items()})
        except ValidationError as error:
            raise ConfigError(_explain(error, keys)) from None
        if 0 < settings.image_max_tokens < settings.image_min_tokens:
            raise ConfigError(
                f"IMAGE_MIN_TOKENS has value {settings.image_min_tokens}: it is more than IMAGE_MAX_TOKENS, "
                f"{settings.image_max_tokens}."
            )
        if 0 < settings.n_ctx < settings.max_model_len:
            raise ConfigError(
                f"MAX_MODEL_LEN has value {settings.max_model_len}: the cache holds {keys['n_ctx']}={settings.n_ctx} "
                "tokens, and one sequence cannot have more."
            )
        return settings


def _refuse_removed(environ: Mapping[str, str]) -> None:
    for (key, value), advice in REMOVED.items():
        given = environ.get(key)
        if given and value in (None, given):
            raise ConfigError(f"{key} has value {given!r}: {advice}")


def names_of(setting: str) -> tuple[str, ...]:
    """Its environment variables, the project's own first."""
    return setting.upper(), *ALIASES.get(setting, ())


def _key_of(setting: str, environ: Mapping[str, str]) -> str | None:
    """Under which name it is set. Which of two values is meant cannot be guessed, so they must be equal."""
    keys = [key for key in names_of(setting) if environ.get(key)]
    for other in keys[1:]:
        if environ[other] != environ[keys[0]]:
            raise ConfigError(f"{keys[0]} and {other} are one setting and have different values: set one of them.")
    return keys[0] if keys else None


def _explain(error: ValidationError, keys: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    setting = str(first["loc"][0])
    secret = Settings.model_fields[setting].annotation is SecretStr
    value = "" if secret else f" has value {first['input']!r}"
    return f"{keys[setting]}{value}: {first['msg']}"


def quiet_runpod(environ: MutableMapping[str, str]) -> None:
    """Before the SDK is imported: at its default level it logs every chunk of every answer."""
    level = environ.get("RUNPOD_LOG_LEVEL") or environ.get("RUNPOD_DEBUG_LEVEL") or "INFO"
    environ["RUNPOD_LOG_LEVEL"] = level


def skip_runpod_checks(environ: MutableMapping[str, str]) -> None:
    """Before the SDK starts. Its own checks come after the model's token, which shows more: they run nvidia-smi several
    times, and try to allocate the GPU's memory, which the model has by then. Set to "false", each runs."""
    for name in ("RUNPOD_SKIP_GPU_CHECK", "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS"):
        environ.setdefault(name, "true")
