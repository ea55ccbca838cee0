"""Fill in the middle: what stands before and behind a gap, and its prompt in a model's own FIM tokens. Pure code.

The order of the parts is as the models were trained (https://arxiv.org/abs/2207.14255): prefix, suffix, middle (PSM),
or the suffix first (SPM). Other files stand before them in the repository form of https://arxiv.org/abs/2409.12186.
"""

from collections.abc import Callable
from typing import NamedTuple

from handler.engine.prompt import Infill
from handler.errors import InvalidRequestError

MAX_TOKEN_CHARS = 16  # characters for each token of room: of longer texts only so much is tokenized before it is cut
SNIPPET = "\n\n--- snippet ---\n\n"  # between files, for models without a token for it; llama-server writes the same
REPOSITORY, CURRENT_FILE = "myproject\n", "filename\n"  # names that llama-server gives, and models have seen from it


class FimTokens(NamedTuple):
    """Token ids of a vocabulary that has FIM tokens."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None  # begins other files
    file: int | None = None  # stands before each file's name
    bos: int | None = None  # with which the vocabulary begins every prompt


def infill_tokens(
    infill: Infill, tokens: FimTokens | None, tokenize: Callable[[str], list[int]], max_tokens: int
) -> list[int]:
    """The prompt; the model goes on with what belongs into the gap.

    `tokenize` reads no control tokens. With `infill.may_cut` the prompt has at most `max_tokens` tokens: of prefix and
    suffix three quarters and a quarter are kept, those nearest to the gap, and other files have what is left. Raises
    InvalidRequestError where the model has no FIM tokens.
    """
    if tokens is None:
        message = "This model has no tokens to fill in the middle with: it continues a prompt only."
        raise InvalidRequestError(message, code="unsupported_parameter")
    bos = [] if tokens.bos is None else [tokens.bos]
    room = max(0, max_tokens - len(bos) - 3)
    num_chars = room * MAX_TOKEN_CHARS
    before, behind, begun = infill.prefix, infill.suffix, tokenize(infill.begun)
    if infill.may_cut:
        before, behind = before[-num_chars:] if num_chars else "", behind[:num_chars]
    prefix, suffix, extra = tokenize(before), tokenize(behind), _extra(infill, tokens, tokenize)
    if infill.may_cut:
        room = max(0, room - len(begun))
        num_suffix = min(len(suffix), max(room // 4, room - len(prefix)))
        num_prefix = min(len(prefix), room - num_suffix)
        prefix, suffix = prefix[len(prefix) - num_prefix :], suffix[:num_suffix]
        extra = extra[max(0, len(extra) - (room - num_prefix - num_suffix)) :]
    head, tail = [tokens.prefix, *prefix, *begun], [tokens.suffix, *suffix]
    parts = [*tail, *head] if infill.suffix_first else [*head, *tail]
    return [*bos, *extra, *parts, tokens.middle]


def _extra(infill: Infill, tokens: FimTokens, tokenize: Callable[[str], list[int]]) -> list[int]:
    """Other files, and the name of the one with the gap."""
    if not infill.extra:
        return []
    token_ids = [] if tokens.repository is None else [tokens.repository, *tokenize(REPOSITORY)]
    for name, text in infill.extra:
        token_ids += tokenize(SNIPPET) if tokens.file is None else [tokens.file, *tokenize(f"{name}\n")]
        token_ids += tokenize(text)
    return token_ids if tokens.file is None else [*token_ids, tokens.file, *tokenize(CURRENT_FILE)]
