"""A runner without llama.cpp: its vectors say what was computed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from handler.embedding.embedder import Embedder
from handler.embedding.plan import EmbeddingPlan
from handler.embedding.runner import Vectors
from tests.engine.fakes import ByteVocabulary

BEGIN, END = 1, 2
PLAN = EmbeddingPlan(
    pooling="mean", is_causal=False, max_len=16, max_batch_tokens=12, max_batch_seqs=4, n_threads=1, flash_attn="auto"
)


class FakeEmbeddingRunner:
    """A character is a token. The vector of an input is (its length, its first token, its last token, 0); a score is
    its length minus 4."""

    def __init__(self, plan: EmbeddingPlan = PLAN) -> None:
        self.plan = plan
        self.max_model_len = plan.max_len
        self.is_probability = False
        self.vocabulary = ByteVocabulary()
        self.batches: list[list[list[int]]] = []
        self.is_closed = False
        self.may_compute = threading.Semaphore(1_000_000)
        self.fail: Callable[[], None] = lambda: None

    @property
    def width(self) -> int:
        return 1 if self.plan.pooling == "rank" else 4

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        token_ids = list(text.encode())
        return [BEGIN, *token_ids, END] if add_special else token_ids

    def cut(self, token_ids: list[int], max_tokens: int) -> list[int]:
        return token_ids if len(token_ids) <= max_tokens else [*token_ids[: max_tokens - 1], END]

    def pair(self, query: str, document: str, max_tokens: int | None) -> list[int]:
        token_ids = self.tokenize(f"{query}|{document}", add_special=False)
        return token_ids[:max_tokens]

    def compute(self, inputs: Sequence[list[int]]) -> Vectors:
        self.may_compute.acquire()
        self.batches.append(list(inputs))
        self.fail()
        if self.width == 1:
            return np.array([[len(token_ids) - 4] for token_ids in inputs], np.float32)
        return np.array([[len(token_ids), token_ids[0], token_ids[-1], 0] for token_ids in inputs], np.float32)

    def hold(self) -> None:
        """Each batch waits for `may_compute.release()`."""
        self.may_compute = threading.Semaphore(0)

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def fake_embedder(
    plan: EmbeddingPlan = PLAN, *, max_requests: int = 8
) -> Iterator[tuple[Embedder, FakeEmbeddingRunner]]:
    runner = FakeEmbeddingRunner(plan)
    embedder = Embedder(runner, max_requests=max_requests)
    try:
        yield embedder, runner
    finally:
        if not runner.is_closed:
            runner.may_compute.release(1_000_000)
            embedder.close()
