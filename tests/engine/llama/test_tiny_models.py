"""The tiny models are what the engine's tests take them for: varied, exact, and each with its own kind of memory."""

from collections.abc import Iterator
from ctypes import c_void_p, create_string_buffer, pointer
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from tests.tiny_models import (
    ARCHITECTURES,
    CHATML,
    SPECIAL_TOKENS,
    Architecture,
    Array,
    write_tiny_model,
    write_tiny_models,
)

WARNING = 3  # ggml_log_level
logged: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes prototype
def keep_warnings(level: int, text: bytes, _: object) -> None:
    if level in (WARNING, WARNING + 1):
        logged.append(text.decode())


class Model:
    """A loaded model whose arithmetic is exact enough to compare: float32 cache, no flash attention, one thread."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.num_tokens: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        token_ids = (llama_cpp.llama_token * len(data))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), token_ids, len(data), False, True)
        return list(token_ids[:count])

    def detokenize(self, token_ids: list[int]) -> bytes:
        return b"".join(self.piece(token_id) for token_id in token_ids)

    def piece(self, token_id: int) -> bytes:
        buffer = create_string_buffer(32)
        size = llama_cpp.llama_token_to_piece(self.vocab, token_id, buffer, len(buffer), 0, True)
        return buffer.raw[:size]

    def logits(self, *parts: list[int]) -> Array:
        """The logits after all the parts, each decoded by its own call."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        for part in parts:
            token_ids = (llama_cpp.llama_token * len(part))(*part)
            assert llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(token_ids, len(part))) == 0
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(logits, shape=(self.num_tokens,)).copy()

    def greedy(self, text: str) -> tuple[list[int], list[float]]:
        """Thirty tokens after the text, and by how much each of them won."""
        prompt = self.tokenize(text)
        answer: list[int] = []
        leads: list[float] = []
        for _ in range(30):
            logits = self.logits(prompt + answer)
            second, best = np.argsort(logits)[-2:]
            answer.append(int(best))
            leads.append(float(logits[best] - logits[second]))
        return answer, leads


@pytest.fixture(scope="module", autouse=True)
def log() -> Iterator[list[str]]:
    before = llama_cpp.llama_log_callback(), c_void_p()
    llama_cpp.llama_log_get(pointer(before[0]), pointer(before[1]))
    llama_cpp.llama_log_set(keep_warnings, c_void_p())
    yield logged
    llama_cpp.llama_log_set(*before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Architecture, Path]:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, files: dict[Architecture, Path]) -> Iterator[Model]:
    model = Model(files[request.param])
    yield model
    model.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loads_without_a_warning(architecture: Architecture, files: dict[Architecture, Path], log: list[str]) -> None:
    """llama.cpp finds a file of less than 2 MB complete and consistent."""
    log.clear()
    model = llama_cpp.llama_model_load_from_file(
        str(files[architecture]).encode(), llama_cpp.llama_model_default_params()
    )
    llama_cpp.llama_model_free(model)
    assert log == []
    assert files[architecture].stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("architecture", "recurrent", "hybrid", "window"),
    [
        ("llama", False, False, 0),
        ("qwen2", False, False, 0),
        ("gemma3", False, False, 16),
        ("mamba", True, False, 0),
        ("jamba", False, True, 0),
    ],
)
def test_memory(architecture: Architecture, recurrent: bool, hybrid: bool, window: int, tmp_path: Path) -> None:
    """Together the models need every kind of memory."""
    path = write_tiny_model(tmp_path / "m.gguf", architecture, sliding_window=16, context_length=128)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert llama_cpp.llama_model_is_recurrent(model) == recurrent
    assert llama_cpp.llama_model_is_hybrid(model) == hybrid
    assert llama_cpp.llama_model_n_swa(model) == window
    assert llama_cpp.llama_model_n_ctx_train(model) == 128
    llama_cpp.llama_model_free(model)


@pytest.mark.parametrize(
    "text", ["héllo 🙂 wörld\n", " the  king , is here .\r\n\tto  ", "<|im_start|>user\n日本語<|im_end|>"]
)
def test_text_survives_tokenization(model: Model, text: str) -> None:
    """Tokens spell exactly the text they came from."""
    assert model.detokenize(model.tokenize(text)).decode() == text


def test_tokens_are_words_and_parts_of_characters(model: Model) -> None:
    """Known words and special tokens are one token each, while an emoji takes one for each of its bytes."""
    assert [len(model.tokenize(text)) for text in (" the", "<|im_end|>", "🙂")] == [1, 1, 4]


def test_greedy_text_is_varied(model: Model) -> None:
    """Text depends on the prompt, does not repeat one token, and its tokens win clearly."""
    answers, leads = zip(*(model.greedy(text) for text in ("hello", "The world is round")), strict=True)
    assert answers[0] != answers[1]
    assert max(len(set(answer)) for answer in answers) > 15
    assert min(map(np.median, leads)) > 0.3
    assert min(map(min, leads)) > 1e-3


def test_text_ends_only_when_asked_to(model: Model) -> None:
    """Special tokens all score zero, so none is ever the best, and two of them end a text."""
    logits = model.logits(model.tokenize("hello"))
    assert not logits[: len(SPECIAL_TOKENS)].any()
    ends = [model.piece(t) for t in range(model.num_tokens) if llama_cpp.llama_vocab_is_eog(model.vocab, t)]
    assert ends == [b"<|endoftext|>", b"<|im_end|>"]


def test_logits_see_the_whole_context(model: Model) -> None:
    """A change of the first of a hundred tokens is felt at the last."""
    prompt = model.tokenize("the end of a long story" * 10)[:100]
    logits, changed = model.logits(prompt), model.logits(model.tokenize("X") + prompt[1:])
    assert np.isfinite(logits).all()
    assert np.abs(logits - changed).max() > 1e-2


def test_logits_do_not_depend_on_the_batches(model: Model) -> None:
    """A prompt in two parts gives the logits that it gives in one."""
    prompt = model.tokenize("the end of a long story" * 10)[:100]
    np.testing.assert_allclose(model.logits(prompt[:61], prompt[61:]), model.logits(prompt), atol=1e-4)


def test_same_seed_same_bytes(files: dict[Architecture, Path], tmp_path: Path) -> None:
    """A model is a function of its arguments."""
    for architecture, path in files.items():
        assert write_tiny_model(tmp_path / "same.gguf", architecture).read_bytes() == path.read_bytes()
        assert write_tiny_model(tmp_path / "other.gguf", architecture, seed=1).read_bytes() != path.read_bytes()


@pytest.mark.parametrize("template", [CHATML, None])
def test_chat_template(template: str | None, tmp_path: Path) -> None:
    """A base model has no chat template."""
    path = write_tiny_model(tmp_path / "m.gguf", "llama", chat_template=template)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert llama_cpp.llama_model_chat_template(model, None) == (template.encode() if template else None)
    llama_cpp.llama_model_free(model)
