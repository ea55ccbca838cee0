"""POST /v1/rerank: a query and documents in, the documents by their relevance out. Jina's and Cohere's shape."""

import secrets
from operator import itemgetter

from handler.api.common import Answer
from handler.api.embeddings import check_length, usage
from handler.api.model_names import ServedNames
from handler.api.pooled_requests import RerankRequest, parse_pooled
from handler.embedding.embedder import MAX_REQUEST_TOKENS, Embedder
from handler.embedding.runner import EmbeddingRunner
from handler.embedding.vectors import probabilities
from handler.errors import InvalidRequestError


class Rerank:
    def __init__(self, embedder: Embedder, names: ServedNames) -> None:
        self._embedder = embedder
        self._names = names

    async def create(self, body: object) -> Answer:
        """Answer a decoded body. Raises RequestError."""
        request = await self._embedder.prepare(lambda: parse_pooled(RerankRequest, "rerank", body))
        model = self._names.resolve(request.model)
        runner = self._embedder.runner
        inputs = await self._embedder.prepare(lambda: _tokenize(runner, request))
        scores = await self._embedder.embed(inputs)
        if not request.raw_scores and not runner.is_probability:
            scores = probabilities(scores)
        results = [
            {"index": index, "relevance_score": float(score)}
            | ({"document": {"text": request.documents[index]}} if request.return_documents else {})
            for index, score in enumerate(scores[:, 0])
        ]
        results.sort(key=itemgetter("relevance_score"), reverse=True)
        return {
            "id": f"rerank-{secrets.token_hex(12)}",
            "object": "list",
            "model": model,
            "results": results[: request.top_n],
            "usage": usage(inputs),
        }


def _tokenize(runner: EmbeddingRunner, request: RerankRequest) -> list[list[int]]:
    """The pairs as tokens. Raises ContextLengthError with the place of the first document that is too long."""
    max_tokens = request.max_tokens(runner.max_model_len)
    inputs: list[list[int]] = []
    num_tokens = 0
    for index, document in enumerate(request.documents):
        token_ids = runner.pair(request.query, document, max_tokens)
        check_length(token_ids, runner, f"documents[{index}]")
        num_tokens += len(token_ids)
        if num_tokens > MAX_REQUEST_TOKENS:
            message = f"Query and documents have more than {MAX_REQUEST_TOKENS} tokens together. Send several requests."
            raise InvalidRequestError(message, param="documents")
        inputs.append(token_ids)
    return inputs
