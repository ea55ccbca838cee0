"""POST /v1/embeddings: texts or token ids in, vectors out."""

import base64

import numpy as np

from handler.api.common import Answer
from handler.api.fields import Prompt
from handler.api.model_names import ServedNames
from handler.api.pooled_requests import EmbeddingRequest, parse_pooled
from handler.embedding.embedder import MAX_REQUEST_TOKENS, Embedder
from handler.embedding.runner import EmbeddingRunner, Vectors
from handler.embedding.vectors import normalised
from handler.errors import ContextLengthError, InvalidRequestError


class Embeddings:
    def __init__(self, embedder: Embedder, names: ServedNames) -> None:
        self._embedder = embedder
        self._names = names

    async def create(self, body: object) -> Answer:
        """Answer a decoded body. Raises RequestError."""
        request = await self._embedder.prepare(lambda: parse_pooled(EmbeddingRequest, "embeddings", body))
        model = self._names.resolve(request.model)
        width = self._embedder.runner.width
        if request.dimensions is not None and request.dimensions > width:
            message = (
                f"'dimensions' must be at most {width}, which this model's vectors have (got {request.dimensions})"
            )
            raise InvalidRequestError(message, param="dimensions")
        runner = self._embedder.runner
        inputs = await self._embedder.prepare(
            lambda: tokenize_inputs(runner, request.inputs, request.max_tokens(runner.max_model_len))
        )
        vectors = await self._embedder.embed(inputs)
        data = await self._embedder.prepare(lambda: _data(vectors, request))
        return {"object": "list", "data": data, "model": model, "usage": usage(inputs)}


def usage(inputs: list[list[int]]) -> dict[str, int]:
    num_tokens = sum(map(len, inputs))
    return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def tokenize_inputs(runner: EmbeddingRunner, prompts: list[Prompt], max_tokens: int | None) -> list[list[int]]:
    """The inputs as tokens, cut at `max_tokens` if it is given. Raises InvalidRequestError and ContextLengthError with
    the place of the first input that is wrong, or once they are too many together."""
    inputs: list[list[int]] = []
    num_tokens = 0
    for index, prompt in enumerate(prompts):
        param = "input" if len(prompts) == 1 else f"input[{index}]"
        token_ids = runner.tokenize(prompt) if isinstance(prompt, str) else prompt
        if not token_ids:
            raise InvalidRequestError(f"'{param}' has no tokens", param=param)
        if max(token_ids) >= runner.vocabulary.num_tokens:
            message = f"'{param}' has token ids that are not in the vocabulary; send texts, or this model's own tokens"
            raise InvalidRequestError(message, param=param)
        if max_tokens is not None:
            token_ids = runner.cut(token_ids, max_tokens)
        check_length(token_ids, runner, param)
        num_tokens += len(token_ids)
        if num_tokens > MAX_REQUEST_TOKENS:
            message = f"The inputs have more than {MAX_REQUEST_TOKENS} tokens together. Send several requests."
            raise InvalidRequestError(message, param="input")
        inputs.append(token_ids)
    return inputs


def check_length(token_ids: list[int], runner: EmbeddingRunner, param: str) -> None:
    if len(token_ids) > runner.max_model_len:
        raise ContextLengthError(
            f"This model takes inputs of {runner.max_model_len} tokens at most, but '{param}' has {len(token_ids)}. "
            "Shorten it, or send 'truncate_prompt_tokens': -1.",
            param=param,
        )


def _data(vectors: Vectors, request: EmbeddingRequest) -> list[Answer]:
    """Cut first, then normalised, so that what is sent has length 1."""
    vectors = vectors[:, : request.dimensions]
    if request.normalize:
        vectors = normalised(vectors)
    encoded: list[str] | list[list[float]]
    if request.encoding_format == "base64":
        encoded = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        encoded = vectors.astype(np.float64).tolist()
    return [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(encoded)]
