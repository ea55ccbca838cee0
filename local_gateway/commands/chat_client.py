"""A gateway, as a chat sees it: which models there are, and an answer piece by piece. The one user of `openai` here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2  # what openai raises when a connection breaks off within a stream
import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from local_gateway.commands.chat_session import Message, Piece, Price, Usage
from local_gateway.errors import GatewayError, one_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ChatError(GatewayError):
    """The gateway gave no answer, or only a part of one. The message says why, in one line."""


class ChatClient:
    """Asks one gateway. It retries by itself, so nothing is repeated here."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        # A proxy from the environment does not lead to this machine.
        http = openai.DefaultHttpxClient(trust_env=urlsplit(url).hostname not in LOOPBACK)
        self._client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0, http_client=http)

    def close(self) -> None:
        self._client.close()

    def models(self) -> dict[str, Price | None]:
        """Their names, in the gateway's order, with prices where they have some. Raises ChatError."""
        with self._errors():
            return {model.id: _price(model.model_extra or {}) for model in self._client.models.list().data}

    @contextmanager
    def answer(self, model: str, messages: Sequence[Message]) -> Iterator[Iterator[Piece]]:
        """The pieces of an answer. Leaving it, at whatever point, stops it. It and they raise ChatError."""
        with self._errors():
            stream = self._client.chat.completions.create(
                model=model,
                messages=cast(list[ChatCompletionMessageParam], list(messages)),
                stream=True,
                stream_options={"include_usage": True},
            )
        with stream:
            yield self._pieces(stream)

    def _pieces(self, stream: openai.Stream[ChatCompletionChunk]) -> Iterator[Piece]:
        with self._errors():
            yield from map(_piece, stream)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Around what comes from the gateway, and nothing else."""
        try:
            yield
        except openai.APITimeoutError as error:
            raise ChatError("The gateway did not answer in time.") from error
        except openai.APIConnectionError as error:
            raise ChatError(f"There is no gateway at {self._url}. Start one (make run), or say --url.") from error
        except openai.APIError as error:
            raise ChatError(_explain(error)) from error
        except httpx2.HTTPError as error:
            raise ChatError("The connection to the gateway broke off.") from error
        except (ValueError, AttributeError, TypeError) as error:  # how openai meets what is not OpenAI's API
            raise ChatError(f"What answers at {self._url} does not speak OpenAI's API.") from error


def _piece(chunk: ChatCompletionChunk) -> Piece:
    usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) if chunk.usage else None
    if not chunk.choices:
        return Piece(usage=usage)
    delta = chunk.choices[0].delta
    thought = (delta.model_extra or {}).get("reasoning_content")
    return Piece(delta.content or "", thought if isinstance(thought, str) else "", usage)


def _price(model: dict[str, Any]) -> Price | None:
    pricing = model.get("pricing")
    return Price(float(pricing["prompt"]), float(pricing["completion"])) if isinstance(pricing, dict) else None


def _explain(error: openai.APIError) -> str:
    told = error.body.get("message") if isinstance(error.body, dict) else None
    return one_line(str(told or error.message))
