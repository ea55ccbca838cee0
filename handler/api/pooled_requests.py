"""Validation of requests for vectors and scores."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic.functional_validators import BeforeValidator, PlainValidator

from handler.api.fields import MAX_INT32, MAX_PROMPTS, Integer, LenientModel, Prompt, parse_prompts
from handler.api.parameters import Route, check_parameters
from handler.api.protocol import ModelT, validate
from handler.errors import InvalidRequestError


def _parse_inputs(value: Any) -> list[Prompt]:
    try:
        inputs = parse_prompts(value)
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error).replace("prompt", "input"), param="input") from None
    for index, item in enumerate(inputs):
        if not item:
            param = "input" if len(inputs) == 1 else f"input[{index}]"
            raise InvalidRequestError(f"'{param}' must not be empty", param=param)
    return inputs


def _parse_documents(value: Any) -> list[str]:
    """Texts, or objects that hold one, as Jina and Cohere have them."""
    items = value if isinstance(value, list) else None
    texts = [item.get("text") if isinstance(item, dict) else item for item in items or []]
    if not texts or not all(isinstance(text, str) for text in texts):
        message = "'documents' must be a list of texts, or of objects with a 'text', and not empty"
        raise InvalidRequestError(message, param="documents")
    if len(texts) > MAX_PROMPTS:
        message = f"'documents' may hold at most {MAX_PROMPTS} documents (got {len(texts)})"
        raise InvalidRequestError(message, param="documents")
    return [str(text) for text in texts]


def _parse_truncate(value: object) -> object:
    """TEI and Ollama say true or false, Cohere and NIM END or NONE."""
    if isinstance(value, str) and value.upper() in ("NONE", "END"):
        return value.upper() == "END"
    return value


class PooledRequest(LenientModel):
    """What both have in common: the model, and what becomes of inputs that are too long."""

    model: str | None = None
    truncate: Annotated[bool, BeforeValidator(_parse_truncate)] = False
    truncate_prompt_tokens: Integer | None = Field(None, ge=-1, le=MAX_INT32)

    def max_tokens(self, longest: int) -> int | None:
        """Tokens at which an input is cut; None: it is refused if it is longer than the model's longest."""
        if self.truncate_prompt_tokens is None:
            return longest if self.truncate else None
        return longest if self.truncate_prompt_tokens == -1 else min(self.truncate_prompt_tokens, longest)

    @model_validator(mode="after")
    def _check_truncation(self) -> "PooledRequest":
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequestError(
                "'truncate_prompt_tokens' must be at least 1, or -1", param="truncate_prompt_tokens"
            )
        return self


class EmbeddingRequest(PooledRequest):
    """POST /v1/embeddings. `content` is llama-server's name of the input, `normalized` Jina's of the flag."""

    inputs: Annotated[list[Prompt], PlainValidator(_parse_inputs)] = Field(
        validation_alias=AliasChoices("input", "content")
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Integer | None = Field(None, ge=1, le=MAX_INT32)
    normalize: bool = Field(True, validation_alias=AliasChoices("normalize", "normalized"))


class RerankRequest(PooledRequest):
    """POST /v1/rerank. `docs` and `return_docs` are infinity's names."""

    query: str = Field(min_length=1)
    documents: Annotated[list[str], PlainValidator(_parse_documents)] = Field(
        validation_alias=AliasChoices("documents", "docs")
    )
    top_n: Integer | None = Field(None, ge=1, le=MAX_INT32)
    return_documents: bool = Field(False, validation_alias=AliasChoices("return_documents", "return_docs"))
    raw_scores: bool = False


def parse_pooled(model_cls: type[ModelT], route: Route, body: object) -> ModelT:
    """The request in a decoded JSON body. Raises InvalidRequestError that says in one line what is wrong first."""
    request = validate(model_cls, body)
    assert isinstance(body, dict), "validated"
    check_parameters(route, body)
    return request
