"""One sequence: its tokens, where they are cached, its text, and why it ended.

A sequence has no phases. Its slot holds the tokens already computed; while it runs, computed tokens catch up with
tokens, and every time they do a new token is sampled.
"""

from collections import deque
from enum import Enum, auto
from typing import NamedTuple, Protocol

from handler.engine.cache.slot import Slot
from handler.engine.detokenizer import Detokenizer
from handler.engine.sampling_params import SamplingParams
from handler.engine.vocabulary import Vocabulary
from handler.errors import EngineError, RequestError

BROKEN_GRAMMAR = "The answer cannot be held to its JSON schema any further: the schema is too complex."


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class FinishReason(Enum):
    STOP = auto()  # end-of-generation token, stop string, or the grammar is complete
    LENGTH = auto()  # max_tokens, or the context is full
    ABORT = auto()  # cancelled by its reader
    ERROR = auto()


class TokenLogprob(NamedTuple):
    """A token, its bytes, and the natural logarithm of its probability before any sampling parameter."""

    token_id: int
    piece: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class SampledToken(NamedTuple):
    """A token drawn for one sequence."""

    token_id: int
    logprob: TokenLogprob | None = None


class SequenceUsage(NamedTuple):
    """Token counts of a sequence."""

    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, not computed again
    num_completion_tokens: int


class SequenceOutput(NamedTuple):
    """What is new of a sequence since its last output. The last output has a finish reason and the usage."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: SequenceUsage | None = None
    error: RequestError | None = None

    def followed_by(self, later: "SequenceOutput") -> "SequenceOutput":
        """Both as one, for a reader that is slower than the engine."""
        return later._replace(text=self.text + later.text, logprobs=self.logprobs + later.logprobs)


class Sampler(Protocol):
    """The state of one sequence's sampling. Made and used by the runner."""

    def close(self) -> None:
        """Free it; closing twice is an error."""
        ...


class Matcher(Protocol):
    """Where one sequence is in the grammar that constrains it. Used by one thread at a time."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end of the answer can follow."""
        ...

    def accept(self, token_id: int) -> bool:
        """Advance by a token; False if the grammar cannot be followed any more."""
        ...


class Sequence:
    """Owned by the engine thread from the moment it is added. Knows nothing of batches, other sequences and readers.

    `max_num_tokens` bounds prompt and answer together; `params.max_tokens` bounds the answer. The last token is always
    sampled and not yet computed.
    """

    def __init__(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        vocabulary: Vocabulary,
        max_num_tokens: int,
        sampler: Sampler | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        self.token_ids = list(prompt_token_ids)
        self.num_prompt_tokens = len(prompt_token_ids)
        self.num_cached_tokens = 0  # as found at the first admission; what a preemption reuses does not count
        self.params = params
        self.sampler = sampler
        self.matcher = matcher
        self.slot: Slot | None = None
        self.status = SequenceStatus.WAITING
        self.num_preemptions = 0
        self._vocabulary = vocabulary
        answer = max_num_tokens if params.max_tokens is None else params.max_tokens
        self._max_num_tokens = min(max_num_tokens, self.num_prompt_tokens + answer)
        self._text = Detokenizer(params.stop)
        self._held_logprobs: deque[tuple[int, TokenLogprob]] = deque()  # (character its text begins at, entry)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_computed_tokens(self) -> int:
        return self.slot.num_tokens if self.slot else 0

    @property
    def num_pending_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while it generates."""
        return self.num_tokens - self.num_computed_tokens

    @property
    def num_completion_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_left(self) -> int:
        """Tokens that may still be appended."""
        return max(0, self._max_num_tokens - self.num_tokens)

    @property
    def may_draft(self) -> bool:
        """False for sequences whose sampling depends on more than logits and token ids (grammars, `min_tokens`), and
        for the last token, which needs no draft."""
        return self.matcher is None and not self.must_go_on and self.num_left > 1

    @property
    def must_go_on(self) -> bool:
        """Whether no token may be sampled now that ends an answer."""
        return self.matcher is None and self.num_completion_tokens < self.params.min_tokens

    @property
    def usage(self) -> SequenceUsage:
        return SequenceUsage(self.num_prompt_tokens, self.num_cached_tokens, self.num_completion_tokens)

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    def extend(self, sampled: list[SampledToken]) -> SequenceOutput:
        """Append the sampled tokens of a step, at least one, up to the one that ends the sequence."""
        output = self.append(sampled[0])
        for token in sampled[1:]:
            if self.is_finished:
                break
            output = output.followed_by(self.append(token))
        return output

    def append(self, sampled: SampledToken) -> SequenceOutput:
        """Append a sampled token; decide whether it was the last."""
        self.token_ids.append(sampled.token_id)
        if self.matcher is not None and not self.matcher.accept(sampled.token_id):
            return self.finish(FinishReason.ERROR, error=EngineError(BROKEN_GRAMMAR))
        if self._is_end(sampled.token_id):
            return self.finish(FinishReason.STOP)
        if sampled.logprob is not None:
            self._held_logprobs.append((self._text.num_decoded, sampled.logprob))
        text = self._text.feed(self._vocabulary.piece(sampled.token_id))
        if self._text.stopped or (self.matcher is not None and self.matcher.is_complete):
            return self.finish(FinishReason.STOP, text)
        if self.num_tokens >= self._max_num_tokens:
            return self.finish(FinishReason.LENGTH, text)
        return SequenceOutput(text, self._shown_logprobs())

    def finish(self, reason: FinishReason, text: str = "", error: RequestError | None = None) -> SequenceOutput:
        """End the sequence. The output has the text that was held back, unless a stop string was found."""
        self.status = SequenceStatus.FINISHED
        text += self._text.finish()
        logprobs = self._shown_logprobs() if self._text.stopped else tuple(entry for _, entry in self._held_logprobs)
        return SequenceOutput(text, logprobs, reason, self.usage, error)

    def close(self) -> None:
        """Free sampler and matcher."""
        self.matcher = None
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def _is_end(self, token_id: int) -> bool:
        return self._vocabulary.is_end_of_generation(token_id) or token_id in self.params.stop_token_ids

    def _shown_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Entries of tokens whose text has begun to be shown, so that text and logprobs stay together."""
        shown: list[TokenLogprob] = []
        while self._held_logprobs and self._held_logprobs[0][0] < self._text.num_shown:
            shown.append(self._held_logprobs.popleft()[1])
        return tuple(shown)
