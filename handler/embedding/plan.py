"""From settings to a role and the sizes of a context that pools. Pure code."""

from typing import Literal, NamedTuple

from handler.engine.model_facts import ModelFacts, Pooling
from handler.engine.plan import Machine
from handler.errors import ConfigError
from handler.settings import Settings

Role = Literal["generate", "embed", "rerank"]

MAX_LEN_ON_GPU, MAX_LEN_ON_CPU = 8192, 2048  # tokens of an input, unless MAX_MODEL_LEN or N_CTX says otherwise
# Tokens of a batch. Attention is computed over the whole batch and masked, so on a CPU larger ones cost more than they
# save; a GPU needs more to be busy.
BATCH_ON_GPU, BATCH_ON_CPU = 4096, 512
MAX_SEQS = 256  # llama.cpp's limit on seq_ids; and with more of them than tokens it aborts the process


class EmbeddingPlan(NamedTuple):
    """A context that pools, in tokens and sequences."""

    pooling: Pooling
    is_causal: bool  # a decoder, whose tokens see only those before them
    max_len: int  # tokens of one input
    max_batch_tokens: int  # of several inputs together; one that is longer is computed alone
    max_batch_seqs: int  # inputs of a batch
    n_threads: int
    flash_attn: str  # auto, on or off

    @property
    def capacity(self) -> int:
        """Tokens of the largest batch. llama.cpp computes it in one piece: pooling needs all of an input at once."""
        return max(self.max_len, self.max_batch_tokens)


def role_of(settings: Settings, model: ModelFacts) -> Role:
    """What the worker does with the model: as TASK says, else by the file. Raises ConfigError where it cannot."""
    pooling = _pooling(settings, model)
    found: Role = "rerank" if pooling == "rank" else "embed" if pooling else "generate"
    if settings.task == "auto":
        return found
    if settings.task == "generate" and not model.is_causal:
        raise ConfigError("TASK has value 'generate': this model is an encoder, which cannot. Use auto or embed.")
    if settings.task == "rerank" and found != "rerank":
        raise ConfigError("TASK has value 'rerank': the model's file does not say that it ranks. Use auto or embed.")
    if settings.task == "embed" and found == "rerank":
        raise ConfigError("TASK has value 'embed': the model ranks. Use auto or rerank, or another POOLING.")
    return settings.task


def plan_embedding(settings: Settings, machine: Machine, model: ModelFacts) -> EmbeddingPlan:
    """For a role that is not `generate`. Raises ConfigError for sizes that the model cannot have."""
    if settings.max_model_len > model.n_ctx_train:
        raise ConfigError(
            f"MAX_MODEL_LEN has value {settings.max_model_len}: this model was made for {model.n_ctx_train} at most."
        )
    on_gpu = machine.has_gpu and settings.n_gpu_layers != 0
    usual = settings.n_ctx or (MAX_LEN_ON_GPU if on_gpu else MAX_LEN_ON_CPU)
    max_len = settings.max_model_len or min(model.n_ctx_train, usual)
    batch_tokens = settings.n_batch or (BATCH_ON_GPU if on_gpu else BATCH_ON_CPU)
    return EmbeddingPlan(
        pooling=_pooling(settings, model) or ("last" if model.is_causal else "mean"),
        is_causal=model.is_causal,
        max_len=max_len,
        max_batch_tokens=batch_tokens,
        max_batch_seqs=min(settings.max_num_seqs or MAX_SEQS, MAX_SEQS, max(max_len, batch_tokens)),
        n_threads=settings.n_threads or machine.num_cores,
        flash_attn=settings.flash_attn,
    )


def _pooling(settings: Settings, model: ModelFacts) -> Pooling | None:
    """As set, else as the file says; an encoder whose file does not say it takes the mean."""
    if settings.pooling != "auto":
        return settings.pooling
    if model.pooling:
        return model.pooling
    return None if model.is_causal else "mean"
