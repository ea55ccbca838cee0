"""Long texts: the same tokens as in one call of llama.cpp, in linear time, and no further than a prompt can be long."""

from collections.abc import Iterator

import pytest

from handler.engine.llama.model import LlamaModel
from handler.engine.llama.tokenizer import MAX_WHOLE, MIN_PIECE, Tokenizer
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.plan import Offload
from handler.errors import ContextLengthError
from tests.tiny_models import Architecture, write_tiny_model

import llama_cpp.llama_cpp as llama  # isort: skip

ENOUGH = 1_000_000
TEXTS = {
    "special tokens": "<|im_end|>" * 5000,
    "between words": "hello <|im_start|>user world\n the<|im_end|>  and \n\n<|im_end|>x" * 600,
    "words alone": "hello world of the end " * 1500,
    "half markers": "<|im_<|im_end|><|im_start" * 1500,
    "characters": "é日本🙂<|im_end|> " * 2000,
    "blanks": (" " * 50 + "<|im_end|>" + " " * 50) * 300,
}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelVocabulary]:
    kind: Architecture = request.param
    model = LlamaModel(write_tiny_model(tmp_path_factory.mktemp("m") / "m.gguf", kind), Offload(0, "none", 0, ()))
    yield ModelVocabulary(llama.llama_model_get_vocab(model.pointer))
    model.close()


@pytest.mark.parametrize("add_special", [True, False])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_cutting_changes_nothing(vocabulary: ModelVocabulary, text: str, add_special: bool) -> None:
    """Where a special token begins, llama.cpp cuts by itself."""
    assert len(text) > MAX_WHOLE
    pieces = list(Tokenizer(vocabulary)._pieces(text.encode()))
    assert b"".join(pieces) == text.encode()
    whole = vocabulary.tokenize(text.encode(), add_special=add_special)
    assert Tokenizer(vocabulary).tokenize(text, max_tokens=ENOUGH, add_special=add_special) == whole


def test_the_beginning_is_there_once(vocabulary: ModelVocabulary) -> None:
    """Also where the template wrote it, and only at the text's beginning."""
    tokenizer, text = Tokenizer(vocabulary), TEXTS["special tokens"]
    token_ids = tokenizer.tokenize(text, max_tokens=ENOUGH)
    assert tokenizer.tokenize(vocabulary.bos_token + text, max_tokens=ENOUGH) == token_ids


def test_it_stops_at_the_limit(vocabulary: ModelVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 390,000 special tokens only as many are looked at as a prompt may have."""
    seen = 0
    tokenize = vocabulary.tokenize

    def counted(data: bytes, *, add_special: bool = True) -> list[int]:
        nonlocal seen
        seen += len(data)
        return tokenize(data, add_special=add_special)

    monkeypatch.setattr(vocabulary, "tokenize", counted)
    with pytest.raises(ContextLengthError, match="maximum context length is 1000 tokens"):
        Tokenizer(vocabulary).tokenize("<|im_end|>" * 390_000, max_tokens=1000)
    assert seen < 1000 * len("<|im_end|>") + 2 * MIN_PIECE


def test_what_cannot_fit_is_not_looked_at(vocabulary: ModelVocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the longest token has for each place."""
    monkeypatch.setattr(vocabulary, "tokenize", None)
    with pytest.raises(ContextLengthError):
        Tokenizer(vocabulary).tokenize("word " * 1_000_000, max_tokens=1000)
