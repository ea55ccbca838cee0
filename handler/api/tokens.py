"""POST /tokenize and /detokenize, in llama-server's form and in vLLM's: which one is meant shows in the fields."""

from typing import Annotated

from pydantic.functional_validators import PlainValidator

from handler.api.common import Answer
from handler.api.fields import LenientModel, parse_token_ids
from handler.api.model_names import ServedNames
from handler.api.protocol import validate
from handler.embedding.embedder import Embedder
from handler.engine.engine import Engine
from handler.errors import InvalidRequestError


class TokenizeRequest(LenientModel):
    """`content` is llama-server's, `prompt` vLLM's. Text is read as a prompt is: with special tokens."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    with_pieces: bool = False
    add_special: bool = False
    add_special_tokens: bool = True


class DetokenizeRequest(LenientModel):
    model: str | None = None
    tokens: Annotated[tuple[int, ...], PlainValidator(lambda value: parse_token_ids(value, "tokens", most=1 << 20))]


class Tokens:
    """Text to tokens and back, without generating anything."""

    def __init__(self, engine: Engine | Embedder, names: ServedNames) -> None:
        self._engine = engine
        self._names = names

    async def tokenize(self, body: object) -> Answer:
        """llama-server's `{"tokens"}`, with pieces if asked for; vLLM's with `count` and `max_model_len` too."""
        request = validate(TokenizeRequest, body)
        self._names.resolve(request.model)
        if request.prompt is not None:
            ids = await self._engine.tokenize(request.prompt, add_special=request.add_special_tokens)
            return {"tokens": ids, "count": len(ids), "max_model_len": self._engine.runner.max_model_len}
        if request.content is None:
            raise InvalidRequestError("'content' is missing, or 'prompt'", param="content")
        ids = await self._engine.tokenize(request.content, add_special=request.add_special)
        if not request.with_pieces:
            return {"tokens": ids}
        return {"tokens": [{"id": token_id, "piece": self._piece(token_id)} for token_id in ids]}

    async def detokenize(self, body: object) -> Answer:
        """The text of tokens under both names, `content` and `prompt`; control tokens have none."""
        request = validate(DetokenizeRequest, body)
        self._names.resolve(request.model)
        if any(token_id >= self._engine.runner.vocabulary.num_tokens for token_id in request.tokens):
            raise InvalidRequestError("'tokens' has ids that are not in the vocabulary", param="tokens")
        text = self._engine.text(list(request.tokens))
        return {"content": text, "prompt": text}

    def _piece(self, token_id: int) -> str | list[int]:
        """Its text, or its bytes where they are no whole characters."""
        piece = self._engine.runner.vocabulary.piece(token_id)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return list(piece)
