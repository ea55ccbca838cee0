"""Values of request fields: the checks that several fields or routes share.

Every error is an InvalidRequestError with `param`; pydantic passes it through, since it is no ValueError.
"""

import json
from typing import Annotated, Any, NamedTuple

import pydantic_core
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.functional_validators import BeforeValidator

from handler.errors import InvalidRequestError

MAX_STRINGS = 32  # stop strings and sequence breakers: each is searched for in every token
MAX_STRING_CHARS = 256
MAX_BIASES = 1024
MAX_PROMPTS = 2048  # OpenAI's limit
MAX_INT32 = 2**31 - 1  # what llama.cpp's counts hold
MAX_SHOWN_CHARS = 40  # of a wrong value in an error message

Prompt = str | list[int]
Strings = tuple[str, ...]
Biases = tuple[tuple[int, float], ...]


class LenientModel(BaseModel):
    """An object of a request: null is an absent field, and fields that it does not name are left to `parameters`."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, body: Any) -> Any:
        return {key: value for key, value in body.items() if value is not None} if isinstance(body, dict) else body


def _whole(value: object) -> object:
    """16.0 is the integer 16, as JSON sees it; 16.5 is none, and stays for the error."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_whole)]


class Refused(NamedTuple):
    """Why a field is refused, and the values that ask for nothing and so pass."""

    why: str
    neutral: tuple[Any, ...] = ()


def unsupported(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' is not supported: {why}", param=param, code="unsupported_parameter")


def wrong(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' {reason}", param=param)


def body_of(value: object) -> dict[str, Any]:
    """The decoded body of a request, which must be an object of Unicode text: what an answer repeats can be encoded."""
    if not isinstance(value, dict):
        raise InvalidRequestError("The request body must be a JSON object")
    try:
        pydantic_core.to_json(value)
    except ValueError:
        raise InvalidRequestError("The request body holds text that is not Unicode, or nests too deep") from None
    return value


def object_at(value: object, param: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise wrong(param, f"must be an object (got {show(value)})")
    return value


def text_at(item: dict[str, Any], name: str, param: str) -> str:
    """The text that an object must have by this name."""
    if not isinstance(text := item.get(name), str):
        raise wrong(f"{param}.{name}", "must be a text")
    return text


def parse_strings(value: object, param: str) -> Strings:
    """One text or several, none of them empty."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidRequestError(f"'{param}' must be a text or a list of texts", param=param)
    if len(items) > MAX_STRINGS:
        raise InvalidRequestError(f"'{param}' may hold at most {MAX_STRINGS} texts (got {len(items)})", param=param)
    if not all(1 <= len(item) <= MAX_STRING_CHARS for item in items):
        message = f"'{param}' may hold only texts of 1 to {MAX_STRING_CHARS} characters"
        raise InvalidRequestError(message, param=param)
    return tuple(items)


def parse_biases(value: object) -> Biases:
    """Pairs of token id and bias, out of OpenAI's object."""
    if not isinstance(value, dict):
        raise InvalidRequestError("'logit_bias' must be an object of token ids and numbers", param="logit_bias")
    if len(value) > MAX_BIASES:
        raise InvalidRequestError(f"'logit_bias' may hold at most {MAX_BIASES} tokens", param="logit_bias")
    return tuple(_bias(token, bias) for token, bias in value.items())


def _bias(token: Any, bias: Any) -> tuple[int, float]:
    if not (isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10):
        raise InvalidRequestError(f"'logit_bias' has a key that is no token id: {show(token)}", param="logit_bias")
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
        message = f"'logit_bias' must have values from -100 to 100 (got {show(bias)})"
        raise InvalidRequestError(message, param="logit_bias")
    return int(token), float(bias)


def parse_token_ids(value: object, param: str, *, most: int = MAX_BIASES) -> tuple[int, ...]:
    """A list of token ids, possibly empty. Whether the vocabulary has them shows later."""
    if not (value == [] or is_token_ids(value)) or not isinstance(value, list) or len(value) > most:
        message = f"'{param}' must be a list of at most {most} token ids"
        raise InvalidRequestError(message, param=param)
    return tuple(value)


def parse_prompts(value: Any) -> list[Prompt]:
    """One prompt or several, each a text or token ids."""
    items = [value] if isinstance(value, str) or is_token_ids(value) else value
    if not isinstance(items, list) or not items or not (_are_texts(items) or all(map(is_token_ids, items))):
        message = "'prompt' must be a text, a list of texts, a list of token ids or a list of such lists, and not empty"
        raise InvalidRequestError(message, param="prompt")
    if len(items) > MAX_PROMPTS:
        raise InvalidRequestError(f"'prompt' may hold at most {MAX_PROMPTS} prompts (got {len(items)})", param="prompt")
    return items


def _are_texts(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def is_token_ids(value: object) -> bool:
    """`type` and not `isinstance`: true is no token."""
    return (
        isinstance(value, list) and bool(value) and all(type(item) is int and 0 <= item <= MAX_INT32 for item in value)
    )


def show(value: object) -> str:
    """A wrong value as JSON has it, short enough for one line. What is in a list or an object is not shown."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
