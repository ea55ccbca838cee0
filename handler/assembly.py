"""From a loaded model to a worker: engine, chat template and API are put together here. Imports llama.cpp."""

import gc
from collections.abc import Callable
from pathlib import Path

from handler.api.chat import ChatCompletions
from handler.api.completions import Completions
from handler.api.embeddings import Embeddings
from handler.api.infill import Infills
from handler.api.media_parts import MediaKind
from handler.api.media_reader import MediaReader
from handler.api.model_names import ServedNames
from handler.api.rerank import Rerank
from handler.api.routes import Api, EmbeddingApi, RerankApi
from handler.api.tokens import Tokens
from handler.chat.template import ChatTemplate, model_template
from handler.engine.engine import Engine
from handler.engine.llama.model_runner import ModelRunner
from handler.errors import ConfigError, ModelError
from handler.loading import AnyModel, LoadedEmbedder, start_embedder, start_engine
from handler.settings import Settings
from handler.worker import Worker

DEMO_NAMES = ("llama", "demo", "qwen2.5-coder-0.5b-instruct")


def start_worker(settings: Settings, model: AnyModel) -> Worker:
    """Raises ConfigError for a chat template that was set and is broken."""
    if isinstance(model, LoadedEmbedder):
        return _start_embedding_worker(settings, model)
    template = chat_template(settings, model.runner)
    names = ServedNames(served_names(settings), adapter_names(settings))
    engine = start_engine(model, max_queue=settings.max_queue)
    gc.freeze()  # what is there now stays: a full collection would look through all of it, while every stream waits
    chat = ChatCompletions(
        engine,
        template,
        names,
        reasoning=settings.reasoning_format,
        doubles_reasoning=settings.reasoning_twice,
        media=_media_reader(settings, engine),
    )
    completions = Completions(engine, names, suffix_first=settings.spm_infill)
    infills = Infills(engine, names, suffix_first=settings.spm_infill)
    return Worker(Api(chat, completions, infills, Tokens(engine, names), names), engine)


def _media_reader(settings: Settings, engine: Engine) -> MediaReader | None:
    """For what the model takes; None where that is text alone."""
    taken: dict[MediaKind, bool] = {"image": engine.sees, "sound": engine.hears}
    kinds = [kind for kind, is_taken in taken.items() if is_taken]
    if not kinds:
        return None
    return MediaReader(kinds, max_bytes=settings.media_max_bytes, fetches_urls=settings.media_urls)


def _start_embedding_worker(settings: Settings, model: LoadedEmbedder) -> Worker:
    embedder = start_embedder(model, max_queue=settings.max_queue)
    names = ServedNames(served_names(settings))
    tokens = Tokens(embedder, names)
    if model.ranks:
        return Worker(RerankApi(Rerank(embedder, names), tokens, names), embedder)
    return Worker(EmbeddingApi(Embeddings(embedder, names), tokens, names), embedder)


def served_names(settings: Settings) -> tuple[str, ...]:
    """As set; else what MODEL says, in the forms that a client may use for it."""
    if settings.model_alias:
        return settings.model_alias
    if settings.model == "demo":
        return DEMO_NAMES
    repo = settings.model.split("@")[0].split(":")[0]
    file = Path(settings.model.split("?")[0]).name
    names = (file.removesuffix(".gguf"),) if file.endswith(".gguf") else (settings.model, repo)
    return tuple(dict.fromkeys(names))


def adapter_names(settings: Settings) -> tuple[str, ...]:
    """As set. Raises ConfigError where one is the model's too."""
    names = tuple(name for name, _ in settings.loras)
    if shared := set(names) & set(served_names(settings)):
        raise ConfigError(f"LORAS has an adapter by the name {min(shared)!r}, which is the model's: choose another.")
    return names


def chat_template(settings: Settings, runner: ModelRunner) -> Callable[[], ChatTemplate]:
    """The one that was set, else the model's own."""
    bos_token, eos_token = runner.vocabulary.bos_token, runner.vocabulary.eos_token
    control_tokens, max_literals = runner.control_texts, runner.max_model_len
    if not settings.chat_template:
        return model_template(
            runner.chat_template(),
            tool_use=runner.chat_template("tool_use"),
            bos_token=bos_token,
            eos_token=eos_token,
            control_tokens=control_tokens,
            tool_format=settings.tool_format,
            max_literals=max_literals,
        )
    try:
        template = ChatTemplate(
            _read_template(settings.chat_template),
            bos_token=bos_token,
            eos_token=eos_token,
            control_tokens=control_tokens,
            tool_format=settings.tool_format,
            max_literals=max_literals,
        )
    except (OSError, ModelError) as error:
        raise ConfigError(f"CHAT_TEMPLATE cannot be used: {error}") from error
    return lambda: template


def _read_template(value: str) -> str:
    return value if "{" in value else Path(value).expanduser().read_text(encoding="utf-8")
