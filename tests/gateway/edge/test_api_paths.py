"""Which paths there are, of which kind, under which base URLs."""

import pytest

from local_gateway.edge.api_paths import check_method, parse_path
from local_gateway.errors import MethodNotAllowedError, RouteNotFoundError

CHAT = "/chat/completions"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "//v1/chat/completions",
        "/v1//chat/completions", "/v1/chat//completions//", "/v1/v1/chat/completions", "/api/v1/chat/completions",
        "/openai/v1/chat/completions", "/api/chat/completions", "/v1/openai/v1/chat/completions",
    ],
)  # fmt: skip
def test_base_urls(path: str) -> None:
    """With and without what clients are told to put before OpenAI's own part."""
    assert parse_path(path) == (CHAT, "model", "")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/completions", "model"),
        ("/v1/chat/completions/input_tokens", "model"),
        ("/v1/responses/input_tokens", "model"),
        ("/v1/messages/count_tokens", "model"),
        ("/v1/rerank", "model"),
        ("/v1/tokenize", "model"),
        ("/v1/infill", "model"),
        ("/v1/moderations", "model"),
        ("/v1/images/generations", "model"),
        ("/v1/audio/transcriptions", "model"),
        ("/v1/files", "account"),
        ("/v1/files/file-1/content", "account"),
        ("/v1/batches", "account"),
        ("/v1/responses/resp_1", "account"),
        ("/v1/responses/resp_1/cancel", "account"),
        ("/v1/chat/completions/chatcmpl-1", "account"),
        ("/v1/chat/completions/chatcmpl-1/messages", "account"),
        ("/v1/threads/thread_1/messages", "account"),
        ("/v1/fine_tuning/jobs", "account"),
        ("/v1/realtime/client_secrets", "account"),
        ("/v1/what/is/new", "account"),
        ("/v1/Chat/Completions", "account"),
        ("/v1x/chat", "account"),
    ],
)
def test_kinds(path: str, kind: str) -> None:
    """What a model answers is listed; all else belongs to the account."""
    assert parse_path(path).kind == kind


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1", "/v1/", "/api", "//", "/v1/../admin", "/v1/./x", "/x/..", "/a b",
        "/a\\b", "/a?b", "/a%2e", "/\u00e4",
        "/\0", "/v1/chat/completions/chat/completions", "/v2/chat/completions", "/v2/files", "/v1/v2/files",
        "/v1/embeddings/embeddings", "/foo/chat/completions", "/openai/deployments/gpt/files",
        "/openai/deployments/gpt/chat/completions/chat/completions", "/v1/responses/responses",
    ],
)  # fmt: skip
def test_paths_that_lead_elsewhere(path: str) -> None:
    """Nothing that could be read as another path, or that no API has, goes to a target."""
    with pytest.raises(RouteNotFoundError):
        parse_path(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/openai/deployments/gpt-4o/chat/completions", (CHAT, "model", "gpt-4o")),
        ("/openai/deployments/my%20model/embeddings", ("/embeddings", "model", "my model")),
        ("/v1/openai/deployments/whisper/audio/transcriptions", ("/audio/transcriptions", "model", "whisper")),
        ("/deployments/llama/completions", ("/completions", "model", "llama")),
    ],
)
def test_deployments(path: str, expected: tuple[str, str, str]) -> None:
    """Azure's clients name the model in the path."""
    assert parse_path(path) == expected


def test_methods() -> None:
    """Requests to a model are posted; the account's paths know the methods of OpenAI's API."""
    for method in ("GET", "HEAD", "POST", "DELETE"):
        check_method(method, parse_path("/files/1"))
    check_method("POST", parse_path(CHAT))
    for method, path in (("TRACE", "/files"), ("PUT", "/files"), ("GET", CHAT), ("DELETE", "/images/edits")):
        with pytest.raises(MethodNotAllowedError):
            check_method(method, parse_path(path))
