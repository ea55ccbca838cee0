"""The one table of OpenAI's paths: which are answered by a model that their body names, and which by the account.

What a key may do is decided here, by path and method alone: no field of a body can move a request from one kind to
the other.
"""

import re
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import unquote

from local_gateway.errors import MethodNotAllowedError, RouteNotFoundError

Kind = Literal["model", "account"]

# Posted, and answered by the model that the body names.
MODEL_PATHS = (
    *("/chat/completions", "/chat/completions/input_tokens", "/completions", "/embeddings"),
    *("/responses", "/responses/input_tokens", "/messages", "/messages/count_tokens"),
    *("/rerank", "/tokenize", "/detokenize", "/infill", "/moderations"),
)
MODEL_PREFIXES = ("/images/", "/audio/")
BELOW_PREFIX = re.compile(f"(?:{'|'.join(MODEL_PREFIXES)})[^/]+")
MADE_OF_MEDIA = ("/audio/voices", "/audio/voice_consents")  # what is posted there stays in the account
MODEL_IS_OPTIONAL = ("/moderations",)  # as below the prefixes: many targets have one of their own where none is named
# With one of these behind another path, a client has put its whole path behind a base URL that had it already.
REPEATED = ("/chat/completions", "/completions", "/embeddings", "/responses", "/v1/messages")
ACCOUNT_METHODS = ("GET", "HEAD", "POST", "DELETE")  # that OpenAI's API has

PATH = re.compile(r"(?:/[A-Za-z0-9_.:@~+-]+)+")
SLASHES = re.compile(r"//+")
PREFIX = re.compile(r"(?:/(?:v1|api|openai)(?=/|$))+")  # as clients are told a base URL, with and without its end
OTHER_VERSION = re.compile(r"/v\d+(?:/|$)")
DEPLOYMENT = re.compile(r"/deployments/([^/]+)(/.+)")  # Azure's
WRONG_BASE = "There is nothing at this address: the base URL of this gateway ends in /v1, and clients add the rest."


class ApiPath(NamedTuple):
    """A path within OpenAI's API, without /v1 and without a slash at its end."""

    path: str
    kind: Kind
    deployment: str = ""  # the model, where the path names it

    @property
    def needs_model(self) -> bool:
        return self.path in MODEL_PATHS and self.path not in MODEL_IS_OPTIONAL


@lru_cache(maxsize=256)  # clients ask for the same few
def canonical(path: str) -> str:
    """Without doubled slashes, a slash at the end, and what clients put before OpenAI's own part of a path."""
    path = SLASHES.sub("/", path)
    return PREFIX.sub("", path, count=1).rstrip("/") if PREFIX.match(path) else path.rstrip("/")


def parse_path(path: str, method: str = "POST") -> ApiPath:
    """Of a decoded path as the client sent it. Raises RouteNotFoundError for what OpenAI's API cannot have."""
    if path in MODEL_PATHS:  # as the application's middleware has made most of them
        return ApiPath(path, "model")
    path = canonical(path)
    deployment = ""
    if match := DEPLOYMENT.fullmatch(path):
        deployment, path = unquote(match[1]), match[2]
    if not PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise RouteNotFoundError("There is nothing at this address.")
    if path in MODEL_PATHS or (method == "POST" and BELOW_PREFIX.fullmatch(path) and path not in MADE_OF_MEDIA):
        return ApiPath(path, "model", deployment)
    if deployment:
        raise RouteNotFoundError("There is nothing at this address of a deployment.")
    if OTHER_VERSION.match(path) or path.endswith(REPEATED):
        raise RouteNotFoundError(WRONG_BASE)
    return ApiPath(path, "account")


def check_method(method: str, path: ApiPath) -> None:
    """Raises MethodNotAllowedError."""
    allowed = ("POST",) if path.kind == "model" else ACCOUNT_METHODS
    if method not in allowed:
        raise MethodNotAllowedError(method, allowed)
