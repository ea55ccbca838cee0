"""What a model that ranks reads: a query and a document, in the form of its file."""

from typing import NamedTuple

import llama_cpp.llama_cpp as llama

from handler.engine.llama.model import Pointer
from handler.engine.llama.tokenizer import Tokenizer
from handler.engine.llama.vocabulary import ModelVocabulary
from handler.errors import ModelError

QUERY, DOCUMENT = "{query}", "{document}"


class Template(NamedTuple):
    """The texts around query and document, in which special tokens are read as such."""

    before: str
    between: str
    after: str


class RerankPrompt:
    """Makes prompts by the template `rerank` of the file, else with the vocabulary's separators. Any thread.

    BERT's second segment has no type of its own in llama.cpp, so cross-encoders that were trained with it rank a little
    differently than where they come from.
    """

    def __init__(self, model: Pointer, vocabulary: ModelVocabulary, tokenizer: Tokenizer) -> None:
        """Raises ModelError for a template without its two places."""
        self._tokenizer = tokenizer
        self._template = _template(model)
        beginning, end = tokenizer.ends
        separator = [token for token, adds in _separators(vocabulary) if adds and token >= 0]
        self._before, self._between, self._after = beginning, separator, end

    def pair(self, query: str, document: str, max_tokens: int | None) -> list[int]:
        """The tokens; the document is ended early where there would be more than `max_tokens`."""
        plain = self._tokenizer.plain
        if self._template is None:
            return _join(self._before + plain(query) + self._between, plain(document), self._after, max_tokens)
        before, between, after = self._template
        whole = self._tokenizer.mixed(
            [(before, True), (query, False), (between, True), (document, False), (after, True)]
        )
        if max_tokens is None or len(whole) <= max_tokens:
            return whole
        texts = [self._tokenizer.mixed([(text, True)]) for text in self._template]
        return _join(texts[0] + plain(query) + texts[1], plain(document), texts[2], max_tokens)


def _join(head: list[int], document: list[int], after: list[int], max_tokens: int | None) -> list[int]:
    room = len(document) if max_tokens is None else max(0, max_tokens - len(head) - len(after))
    return head + document[:room] + after


def _separators(vocabulary: ModelVocabulary) -> list[tuple[int, bool]]:
    """Between query and document, as llama-server has them: the end of a text, then a separator."""
    vocab = vocabulary.vocab
    return [
        (llama.llama_vocab_eos(vocab), bool(llama.llama_vocab_get_add_eos(vocab))),
        (llama.llama_vocab_sep(vocab), bool(llama.llama_vocab_get_add_sep(vocab))),
    ]


def _template(model: Pointer) -> Template | None:
    source = llama.llama_model_chat_template(model, b"rerank")
    if not source:
        return None
    text = source.decode("utf-8", "replace")
    before, query, rest = text.partition(QUERY)
    between, document, after = rest.partition(DOCUMENT)
    if not query or not document:
        raise ModelError(f"The model's template for reranking lacks {QUERY} or {DOCUMENT}, in this order.")
    return Template(before, between, after)
