"""Long texts: the same tokens as in one call of llama.cpp, in linear time, and no further than a prompt can be long."""

import re
from collections.abc import Iterator

import pytest

from handler.chat.template import ChatTemplate
from handler.engine.llama.model import LlamaModel
from handler.engine.llama.tokenizer import MAX_WHOLE, PREFIXES, Tokenizer, any_of
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.engine.model_facts import Offload
from handler.engine.prompt import MixedText
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
def test_splitting_changes_nothing(vocabulary: ModelVocabulary, text: str, add_special: bool) -> None:
    """Where a control token stands, llama.cpp splits by itself."""
    assert len(text) > MAX_WHOLE
    whole = vocabulary.tokenize(text.encode(), add_special=add_special)
    assert Tokenizer(vocabulary).tokenize(text, max_tokens=ENOUGH, add_special=add_special) == whole


@pytest.mark.parametrize("marker", ["<|im_end|>", "<|im_start|>"])
@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "{0}{0}", "<|im_{}", "日本{}🙂"])
def test_literals_are_text(vocabulary: ModelVocabulary, marker: str, around: str) -> None:
    """They cost as many tokens as one that is spelt wrongly, and come out as they went in."""
    content = around.format(marker)
    template = ChatTemplate(
        "<|im_start|>{{ messages[0].content }}<|im_end|>",
        bos_token="",
        eos_token="",
        control_tokens=frozenset(vocabulary.control_tokens),
    )
    prompt = template.prompt([{"role": "user", "content": content}])
    text = MixedText(prompt.text, prompt.literals)
    token_ids = Tokenizer(vocabulary).tokenize(text, max_tokens=ENOUGH, add_special=False)
    start, end = (vocabulary.control_tokens[marker].token_id for marker in ("<|im_start|>", "<|im_end|>"))
    assert (token_ids[0], token_ids[-1]) == (start, end)
    within = token_ids[1:-1]
    assert not {token.token_id for token in vocabulary.control_tokens.values()} & set(within)
    assert b"".join(map(vocabulary.piece, within)).decode().strip() == content.strip()
    plain = vocabulary.tokenize(content.encode(), add_special=False, parse_special=False)
    assert len(within) == len(plain)


LITERALS = tuple((10 * place, 10 * place + 10) for place in range(390_000))


def test_the_beginning_is_there_once(vocabulary: ModelVocabulary) -> None:
    """Also where the template wrote it, and only at the text's beginning."""
    tokenizer, text = Tokenizer(vocabulary), TEXTS["special tokens"]
    token_ids = tokenizer.tokenize(text, max_tokens=ENOUGH)
    assert tokenizer.tokenize(vocabulary.bos_token + text, max_tokens=ENOUGH) == token_ids


@pytest.mark.parametrize(
    "text",
    ["<|im_end|>" * 390_000, MixedText("<|im_end|>" * 390_000, LITERALS), "word " * 800_000, "a" * 4_000_000],
    ids=["markers", "literals", "words", "a letter"],
)
def test_it_stops_at_the_limit(
    vocabulary: ModelVocabulary, monkeypatch: pytest.MonkeyPatch, text: str | MixedText
) -> None:
    """Of 4 MB only as much is looked at as a prompt may have."""
    seen = 0
    tokenize = vocabulary.tokenize

    def counted(data: bytes, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        nonlocal seen
        seen += len(data)
        return tokenize(data, add_special=add_special, parse_special=parse_special)

    monkeypatch.setattr(vocabulary, "tokenize", counted)
    with pytest.raises(ContextLengthError, match="maximum context length is 1000 tokens"):
        Tokenizer(vocabulary).tokenize(text, max_tokens=1000)
    assert seen <= PREFIXES[0]


@pytest.mark.parametrize("texts", [["ab", "abcd", "abce", "x"], ["("], ["a", "ab", "abc"], []])
def test_the_longest_is_found(texts: list[str]) -> None:
    """As a search for each of them, the longest first, would."""
    slow = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
    for data in ("abcdabceababcx", "((a(", "zzz", "abab"):
        assert any_of(texts).findall(data) == slow.findall(data)
