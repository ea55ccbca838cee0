"""A real embedding model in a real server: OpenAI's client gets the vectors that the model's authors meant."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
import requests

from handler.settings import Settings
from tests.end_to_end.minilm import MiniLm
from tests.end_to_end.program import Server, run, serving

pytestmark = pytest.mark.model

TEXTS = [
    "The capital of France is Paris.",
    "What is the capital of France?",
    "Rome is the capital of Italy.",
    "A cat sits on the mat.",
    "The kitten lies on a rug.",
    "Stock prices fell sharply on Monday.",
    "El perro come en la cocina.",
    "Schöne Grüße aus München!",
    "你好世界",
    "def add(a, b):\n    return a + b",
    "E = mc^2",
    "user@example.com wrote: $5,000.00 (50% off)",
    "antidisestablishmentarianism",
    "a",
    "UPPER and lower CASE",
    "hyphen-ated words, don't split?",
    "[SEP] is no separator [MASK]",
    "tabs\tand\nnew lines   and spaces",
    "Long. " * 100,
    "The quick brown fox jumps over the lazy dog. " * 40,
]


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    """Fetched once per machine."""
    return MiniLm(Settings.from_env({}).models_dir.expanduser() / "minilm")


@pytest.fixture(scope="module")
def vectors_server(minilm: MiniLm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("embeddings") / "log"
    with serving(log, MODEL=str(minilm.path), MODEL_ALIAS="minilm") as server:
        yield server
        assert server.stop() == 0, log.read_text()


@pytest.fixture
def vectors_client(vectors_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vectors_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_vectors_are_those_of_the_reference(vectors_client: openai.OpenAI, minilm: MiniLm) -> None:
    """Of twenty texts, by base64, which the client asks for unless it is told otherwise, and by numbers."""
    expected = np.stack([minilm.embed(text) for text in TEXTS])
    coded = vectors_client.embeddings.create(model="minilm", input=TEXTS)
    plain = vectors_client.embeddings.create(model="minilm", input=TEXTS, encoding_format="float")
    coded_vectors = np.array([item.embedding for item in coded.data])

    assert (1 - (coded_vectors * expected).sum(axis=1)).max() < 1e-3
    assert (np.array([item.embedding for item in plain.data]) == coded_vectors).all()
    assert coded.usage.prompt_tokens == sum(len(minilm.tokenize(text)) for text in TEXTS)


def test_token_ids(vectors_client: openai.OpenAI, minilm: MiniLm) -> None:
    """The model's own tokens give what their text gives."""
    text, *_ = TEXTS
    both = [
        vectors_client.embeddings.create(model="minilm", input=given).data[0].embedding
        for given in (text, minilm.tokenize(text))
    ]

    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_many_inputs_are_few_batches(vectors_client: openai.OpenAI, vectors_server: Server) -> None:
    """64 sentences in one request are computed in a few calls of llama.cpp, not in 64."""
    before = vectors_server.health()["num_batches"]
    vectors_client.embeddings.create(model="minilm", input=[f"Sentence number {number}." for number in range(64)])

    assert vectors_server.health()["num_batches"] - before <= 3


def test_inputs_that_are_too_long(vectors_client: openai.OpenAI) -> None:
    """Are refused with their place, or cut on request."""
    with pytest.raises(openai.BadRequestError) as caught:
        vectors_client.embeddings.create(model="minilm", input=["a", "word " * 600])
    cut = vectors_client.embeddings.create(
        model="minilm", input="word " * 600, extra_body={"truncate_prompt_tokens": -1}
    )

    assert (caught.value.param, caught.value.code) == ("input[1]", "context_length_exceeded")
    assert "512 tokens at most" in str(caught.value)
    assert cut.usage.prompt_tokens == 512


def test_chats_are_refused_in_words(vectors_client: openai.OpenAI, vectors_server: Server) -> None:
    """The greeting shows what can be asked, and the metrics count it."""
    with pytest.raises(openai.BadRequestError, match="it cannot generate text"):
        vectors_client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "Hi"}])

    assert "/v1/embeddings -H" in vectors_server.log.read_text()
    assert "engine_embedded_inputs_total" in requests.get(f"{vectors_server.url}/metrics", timeout=10).text


def test_a_job(minilm: MiniLm) -> None:
    """By RunPod's route, and in the worker's own form."""
    for job in (
        '{"input": {"openai_route": "/v1/embeddings", "openai_input": {"input": "Hi"}}}',
        '{"input": {"input": "Hi"}}',
    ):
        result = run("--test_input", job, MODEL=str(minilm.path))
        assert result.returncode == 0, result.stderr
        assert '"object": "embedding"' in result.stdout
