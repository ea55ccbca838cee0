"""One sequence: its tokens, where they are cached, its text, and why it ended.

A sequence has no phases. Its slot holds the tokens already computed; while it runs, computed tokens catch up with
tokens, and every time they do a new token is sampled.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import NamedTuple, Protocol

from handler.engine.adapter_turns import Adapter
from handler.engine.answer_parts import AnswerParts, Part
from handler.engine.cache.prefix_order import TOKEN_BYTES, key_of
from handler.engine.cache.slot import Slot
from handler.engine.detokenizer import Detokenizer
from handler.engine.logprobs import ScoredPrompt, TokenLogprob
from handler.engine.media_run import MediaRun
from handler.engine.prompt_scores import PromptScores
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


class SampledToken(NamedTuple):
    """A token drawn for one sequence."""

    token_id: int
    logprob: TokenLogprob | None = None


class SequenceUsage(NamedTuple):
    """Token counts of a sequence."""

    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, not computed again
    num_completion_tokens: int
    num_reasoning_tokens: int = 0  # of the completion


class Mark(NamedTuple):
    """Where in a text a special token stands: its text begins at this offset."""

    offset: int  # characters
    token_id: int


class SequenceOutput(NamedTuple):
    """What is new of a sequence since its last output. The last output has a finish reason and the usage."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: SequenceUsage | None = None
    error: RequestError | None = None
    marks: tuple[Mark, ...] = ()  # of the tokens in the text that the request wanted to be shown
    ended_by: int | str | None = None  # the token or the stop string that ended the sequence
    logprob_offsets: tuple[int, ...] = ()  # for each logprob, the character of the text that its token's begins at
    prompt: ScoredPrompt | None = None  # with the first output of a sequence whose prompt is scored

    def followed_by(self, later: "SequenceOutput") -> "SequenceOutput":
        """Both as one, for a reader that is slower than the engine."""
        num_chars = len(self.text)
        return later._replace(
            text=self.text + later.text,
            logprobs=self.logprobs + later.logprobs,
            marks=self.marks + tuple(Mark(num_chars + offset, token_id) for offset, token_id in later.marks),
            logprob_offsets=self.logprob_offsets + tuple(num_chars + offset for offset in later.logprob_offsets),
            prompt=self.prompt or later.prompt,
        )


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

    `adapter` is the one that all of it is computed with. `max_num_tokens` bounds prompt and answer together;
    `params.max_tokens` bounds the answer. The last token is always sampled and not yet computed. `reasoning_end` are
    the tokens that are written when reasoning has taken as long as `params.parts` allows. `runs` are media in the
    prompt by the place of their first token id; the last is a token's.
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
        reasoning_end: Iterable[int] = (),
        adapter: Adapter = None,
        runs: Mapping[int, MediaRun] | None = None,
    ) -> None:
        self.token_ids = list(prompt_token_ids)
        self._key = b""  # of the tokens that there were when it was last asked for
        self.num_prompt_tokens = len(prompt_token_ids)
        self.num_cached_tokens = 0  # as found at the first admission; what a preemption reuses does not count
        self.params = params
        self.adapter = adapter
        self.runs = dict(runs or {})
        self.sampler = sampler
        self.matcher = matcher
        self.slot: Slot | None = None
        self.status = SequenceStatus.WAITING
        self.num_preemptions = 0
        self.prompt_scores = None if params.num_prompt_logprobs is None else PromptScores(self.num_prompt_tokens)
        self._vocabulary = vocabulary
        answer = max_num_tokens if params.max_tokens is None else params.max_tokens
        self._max_num_tokens = min(max_num_tokens, self.num_prompt_tokens + answer)
        self._text = Detokenizer(params.stop)
        self._held_logprobs: deque[tuple[int, TokenLogprob]] = deque()  # (character its text begins at, entry)
        shown = {text: vocabulary.special_token(text) for text in params.shown_tokens}
        special = {text: token_id for text, token_id in shown.items() if token_id is not None}
        self._shown_tokens = {token_id: text.encode() for text, token_id in special.items()}
        self._held_marks: deque[Mark] = deque()  # with their offset in all of the text
        self._unwritten: list[SampledToken] = []  # appended, and not yet in the text
        self._parts = AnswerParts(params.parts, special) if params.parts else None
        self._divided = self._parts  # until the part cannot change any more
        self._is_searched = True  # for stop strings
        self._reasoning_end = tuple(reasoning_end)
        self._forced: deque[int] = deque()  # tokens to write instead of those that are sampled
        self._force_end_of_reasoning()

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def key(self) -> bytes:
        """Of its tokens (prefix_order.py). Takes a time in proportion to them when they have changed."""
        if len(self._key) != TOKEN_BYTES * self.num_tokens:
            self._key = key_of(self.token_ids)
        return self._key

    @property
    def num_computed_tokens(self) -> int:
        return len(self.slot.token_ids) if self.slot else 0

    @property
    def num_pending_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while it generates."""
        return len(self.token_ids) - (len(self.slot.token_ids) if self.slot else 0)

    @property
    def due_run(self) -> MediaRun | None:
        """The media run that is to be computed next, if its pending tokens begin with one."""
        return self.runs.get(self.num_computed_tokens)

    @property
    def num_due_tokens(self) -> int:
        """Pending tokens up to the next media run."""
        num_computed = self.num_computed_tokens
        starts = (start for start in self.runs if start >= num_computed)
        return min(starts, default=self.num_tokens) - num_computed

    @property
    def num_completion_tokens(self) -> int:
        return min(self.num_tokens, self._max_num_tokens) - self.num_prompt_tokens

    @property
    def is_scoring(self) -> bool:
        """Whether tokens of its prompt have no logprobs yet that were asked for."""
        return self.prompt_scores is not None and not self.prompt_scores.is_complete

    @property
    def reusable_token_ids(self) -> list[int]:
        """The tokens whose beginning may be taken from the cache, but for the last of these."""
        if self.prompt_scores is None or self.prompt_scores.is_complete:
            return self.token_ids
        return self.token_ids[: self.prompt_scores.num_known + 1]

    @property
    def num_left(self) -> int:
        """Tokens that may still be appended."""
        return max(0, self._max_num_tokens - self.num_tokens)

    @property
    def may_draft(self) -> bool:
        """False for sequences whose sampling depends on more than logits and token ids (grammars, `min_tokens`, bounded
        reasoning), and for the last token, which needs no draft."""
        is_drawn = self.matcher is None and not self.must_go_on and not (self._parts and self._parts.may_force)
        return is_drawn and self.num_left > 1

    @property
    def must_go_on(self) -> bool:
        """Whether no token may be sampled now that ends an answer."""
        return self.matcher is None and self.num_completion_tokens < self.params.min_tokens

    @property
    def usage(self) -> SequenceUsage:
        num_reasoning_tokens = self._parts.num_reasoning_tokens if self._parts else 0
        return SequenceUsage(
            self.num_prompt_tokens, self.num_cached_tokens, self.num_completion_tokens, num_reasoning_tokens
        )

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    def advance(self, sampled: list[SampledToken]) -> SequenceOutput | None:
        """As `extend`, but None where no text can decide whether the sequence ends: `write` makes it later, while a
        device computes the next step."""
        if len(self.token_ids) >= self._max_num_tokens:  # the prompt alone was to be computed
            self.token_ids.append(sampled[0].token_id)  # no text; as any sampled token, the cache does not hold it
            return self.finish(FinishReason.LENGTH)
        if self.matcher is not None or self.params.stop or self._divided or self._forced:
            return self.extend(sampled)
        token_ids = self.token_ids
        for token in sampled:
            token_ids.append(token.token_id)
            if self._is_end(token.token_id):
                return self.finish(FinishReason.STOP, ended_by=token.token_id, end=token.logprob)
            self._unwritten.append(token)
            if len(token_ids) >= self._max_num_tokens:
                return self.finish(FinishReason.LENGTH)
        return None

    def write(self) -> SequenceOutput:
        """What is new since the last output, of a sequence that was advanced."""
        return self._output(self._write_rest())

    def extend(self, sampled: list[SampledToken]) -> SequenceOutput:
        """Append the sampled tokens of a step, at least one, up to the one that ends the sequence."""
        output = self.append(sampled[0])
        for token in sampled[1:]:
            if self.is_finished:
                break
            output = output.followed_by(self.append(token))
        return output

    def append(self, sampled: SampledToken) -> SequenceOutput:
        """Append a sampled token, or the one that must be written instead; decide whether it was the last."""
        if self._forced:
            sampled = SampledToken(self._forced.popleft())
        token_id = sampled.token_id
        self.token_ids.append(token_id)
        if self.matcher is not None and not self.matcher.accept(token_id):
            return self.finish(FinishReason.ERROR, error=EngineError(BROKEN_GRAMMAR))
        if self._is_end(token_id):
            return self.finish(FinishReason.STOP, ended_by=token_id, end=sampled.logprob)
        text = self._write(sampled)
        if self._text.stopped:
            return self.finish(FinishReason.STOP, text, ended_by=self._text.stopped_by)
        if self.matcher is not None and self.matcher.is_complete:
            return self.finish(FinishReason.STOP, text)
        if self.num_tokens >= self._max_num_tokens:
            return self.finish(FinishReason.LENGTH, text)
        return self._output(text)

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        error: RequestError | None = None,
        ended_by: int | str | None = None,
        end: TokenLogprob | None = None,
    ) -> SequenceOutput:
        """End the sequence. The output has the text that was held back, unless a stop string was found. `end` is the
        logprob of the token that ended it, if there is one: it goes out where it was asked for."""
        self.status = SequenceStatus.FINISHED
        text = self._write_rest() + text + self._text.finish()
        if end is not None and self.params.has_end_logprob:
            self._held_logprobs.append((self._text.num_decoded, end))
        output = self._output(text, is_last=not self._text.stopped)
        return output._replace(finish_reason=reason, usage=self.usage, error=error, ended_by=ended_by)

    def close(self) -> None:
        """Free sampler and matcher."""
        self.matcher = None
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None

    def _is_end(self, token_id: int) -> bool:
        return self._vocabulary.is_end_of_generation(token_id) or token_id in self.params.stop_token_ids

    def _write(self, sampled: SampledToken) -> str:
        """The text that can be shown now that this token is there."""
        token_id = sampled.token_id
        piece = self._shown_tokens.get(token_id)
        if piece is None:
            piece = self._vocabulary.piece(token_id)
        else:
            self._text.end_character()
            self._held_marks.append(Mark(self._text.num_decoded, token_id))
        if sampled.logprob is not None:
            self._held_logprobs.append((self._text.num_decoded, sampled.logprob))
        if self._divided is None:
            return self._text.feed(piece, is_searched=self._is_searched)
        text = self._text.feed(piece, is_searched=self._divided.feed(token_id, piece))
        self._force_end_of_reasoning()
        if self._divided.is_settled:
            self._is_searched = self._divided.part is Part.CONTENT
            self._divided = None
        return text

    def _write_rest(self) -> str:
        unwritten, self._unwritten = self._unwritten, []
        return "".join(map(self._write, unwritten))

    def _force_end_of_reasoning(self) -> None:
        """Let its end be written as soon as it has taken as long as it may, and a character is whole."""
        if self._parts and self._parts.must_close and not self._forced and not self._text.is_within_character:
            self._forced.extend(self._reasoning_end)

    def _output(self, text: str, *, is_last: bool = False) -> SequenceOutput:
        """Text that is shown now, with the marks and the logprobs of the tokens whose text has begun to be shown.

        So they stay together. The last output has the logprobs that are left: of tokens without text.
        """
        prompt = self._take_prompt()
        if not self._held_logprobs and not self._held_marks:
            return SequenceOutput(text, prompt=prompt)
        end = self._text.num_shown
        start = end - len(text)
        logprobs: list[TokenLogprob] = []
        offsets: list[int] = []
        while self._held_logprobs and (is_last or self._held_logprobs[0][0] < end):
            begins, entry = self._held_logprobs.popleft()
            logprobs.append(entry)
            offsets.append(begins - start)
        marks: list[Mark] = []
        while self._held_marks and self._held_marks[0].offset < end:
            begins, token_id = self._held_marks.popleft()
            marks.append(Mark(begins - start, token_id))
        return SequenceOutput(text, tuple(logprobs), marks=tuple(marks), logprob_offsets=tuple(offsets), prompt=prompt)

    def _take_prompt(self) -> ScoredPrompt | None:
        if self.prompt_scores is None:
            return None
        return self.prompt_scores.take(self.token_ids[0], self._vocabulary.piece(self.token_ids[0]))
