"""A model with a context that pools: many inputs in one batch, each a sequence of its own."""

from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from handler.embedding.plan import EmbeddingPlan
from handler.embedding.runner import Vectors
from handler.engine.llama.backend import llama_log
from handler.engine.llama.batch_buffer import BatchBuffer
from handler.engine.llama.context import FLASH_ATTN
from handler.engine.llama.model import LlamaModel, Pointer
from handler.engine.llama.rerank_prompt import RerankPrompt
from handler.engine.llama.tokenizer import Tokenizer
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.model_facts import Pooling
from handler.errors import DecodeError, ModelError

POOLINGS: dict[Pooling, int] = {
    "mean": llama.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama.LLAMA_POOLING_TYPE_CLS,
    "last": llama.LLAMA_POOLING_TYPE_LAST,
    "rank": llama.LLAMA_POOLING_TYPE_RANK,
}
SOFTMAXED = "qwen3"  # architectures whose graph ends in a softmax of yes and no, of which the first is the score


class LlamaEmbeddingRunner:
    """An `EmbeddingRunner`. Owns the model, its context and the buffer of a batch; the last two belong to the
    embedder's thread."""

    def __init__(self, model: LlamaModel, plan: EmbeddingPlan) -> None:
        """Open a context; from here on, and also if that fails, the model is the runner's. Raises ModelError."""
        self._model = model
        try:
            self.plan = plan
            self.max_model_len = plan.max_len
            self.vocabulary = ModelVocabulary(llama.llama_model_get_vocab(model.pointer))
            self._tokenizer = Tokenizer(self.vocabulary)
            self.is_probability = model.architecture.startswith(SOFTMAXED)
            self._ranks = plan.pooling == "rank"
            self._prompt = RerankPrompt(model.pointer, self.vocabulary, self._tokenizer) if self._ranks else None
            self._num_floats = _num_floats(model, plan)
            self._context = _open(model, plan)
        except BaseException:
            model.close()
            raise
        self._memory = llama.llama_get_memory(self._context)  # None of an encoder, which has none
        self._buffer = BatchBuffer(plan.capacity)

    @property
    def width(self) -> int:
        return 1 if self._ranks else self._num_floats

    def warm_up(self) -> None:
        """Compute one token, so that the first request does not wait for pages and kernels. Raises DecodeError."""
        self.compute([[self.vocabulary.any_token]])

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        token_ids = self._tokenizer.plain(text)
        if not add_special:
            return token_ids
        beginning, end = self._tokenizer.ends
        return beginning + token_ids + end

    def cut(self, token_ids: list[int], max_tokens: int) -> list[int]:
        _, end = self._tokenizer.ends
        if len(token_ids) <= max_tokens or len(end) >= max_tokens or token_ids[len(token_ids) - len(end) :] != end:
            return token_ids[:max_tokens]
        return token_ids[: max_tokens - len(end)] + end

    def pair(self, query: str, document: str, max_tokens: int | None) -> list[int]:
        assert self._prompt is not None, "of models that rank"
        return self._prompt.pair(query, document, max_tokens)

    def compute(self, inputs: Sequence[list[int]]) -> Vectors:
        self._buffer.fill_inputs(inputs)
        if self._memory:
            llama.llama_memory_clear(self._memory, False)
        code = llama.llama_decode(self._context, self._buffer.struct)
        if code != 0:
            raise DecodeError(f"llama_decode returned {code}.")
        llama.llama_synchronize(self._context)
        vectors = np.empty((len(inputs), self.width), np.float32)
        for seq_id in range(len(inputs)):
            row = llama.llama_get_embeddings_seq(self._context, seq_id)
            if not row:
                raise DecodeError(f"llama.cpp has no vector of sequence {seq_id}.")
            vectors[seq_id] = np.ctypeslib.as_array(row, (self._num_floats,))[: self.width]
        if not np.isfinite(vectors).all():
            raise DecodeError("The model's vectors are not finite.")
        return vectors

    def close(self) -> None:
        llama.llama_free(self._context)
        self._model.close()


def _num_floats(model: LlamaModel, plan: EmbeddingPlan) -> int:
    """Of one result, as llama.cpp writes it. Raises ModelError for a file that cannot do what it says."""
    if plan.pooling != "rank":
        return int(llama.llama_model_n_embd_out(model.pointer))
    num_labels = int(llama.llama_model_n_cls_out(model.pointer))
    if num_labels != 1 and not model.architecture.startswith(SOFTMAXED):
        raise ModelError(f"The model sorts texts into {num_labels} classes; one that ranks has one score.")
    return num_labels


def _open(model: LlamaModel, plan: EmbeddingPlan) -> Pointer:
    context = llama.llama_init_from_model(model.pointer, _params(plan))
    if not context:
        raise ModelError(
            f"llama.cpp cannot make a context for inputs of {plan.max_len} tokens: {llama_log.reason()}. "
            "Set a smaller MAX_MODEL_LEN."
        )
    return context


def _params(plan: EmbeddingPlan) -> Any:
    """All of a batch in one piece (n_ubatch), or llama.cpp aborts the process; cells for all of its tokens."""
    native = llama.llama_context_default_params()
    native.n_ctx = native.n_batch = native.n_ubatch = plan.capacity
    native.n_seq_max = plan.max_batch_seqs
    native.n_threads = native.n_threads_batch = plan.n_threads
    native.flash_attn_type = FLASH_ATTN[plan.flash_attn]
    native.kv_unified = True
    native.embeddings = True
    native.pooling_type = POOLINGS[plan.pooling]
    native.swa_full = True
    return native
