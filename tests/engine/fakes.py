"""A model without arithmetic: each next token is a function of the tokens that its slot really holds.

So a text that comes out right proves that the cache held what the scheduler believed, and the fake memory counts cells
as llama.cpp's unified cache does, so that the engine's own count can be held against it.
"""

import ctypes
import re
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import count
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

from handler.engine.adapter_turns import Adapter
from handler.engine.batch import Batch, ScheduledSequence
from handler.engine.engine import Engine
from handler.engine.infill import FimTokens
from handler.engine.logprobs import TokenLogprob
from handler.engine.prompt import MixedText
from handler.engine.prompt_scores import MAX_SCORED_TOKENS
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Limits
from handler.engine.sequence import SampledToken, Sampler
from handler.engine.step_times import StepTimes
from handler.engine.structured.grammar import GrammarCompiler
from handler.engine.vocabulary import NativeTokenizer
from handler.errors import CacheFullError

END = 256  # the token that ends an answer
CONTROL = 257  # a token without text
TIMEOUT = 20.0  # seconds until a test that hangs fails

TOKENIZE = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32),
    *(ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
)

MemoryKind = Literal["full", "recurrent", "stubborn", "split"]


class ByteVocabulary:
    """Each byte is a token; two special ones follow, and the control tokens that are named."""

    num_tokens = 258

    def __init__(self, *specials: str) -> None:
        self._specials = {text: CONTROL + 1 + number for number, text in enumerate(specials)}
        self.num_tokens += len(specials)

    def tokenize(self, text: str) -> list[int]:
        """Special tokens' texts are read as such."""
        pattern = "|".join(map(re.escape, self._specials))
        parts = re.split(f"({pattern})", text) if pattern else [text]
        known = self._specials
        return [token_id for part in parts for token_id in ([known[part]] if part in known else part.encode())]

    def special_token(self, text: str) -> int | None:
        return self._specials.get(text)

    @cached_property
    def end_of_generation(self) -> frozenset[int]:
        return frozenset({END})

    def is_end_of_generation(self, token_id: int) -> bool:
        return token_id == END

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < END else b""

    @property
    def native_tokenizer(self) -> NativeTokenizer:
        return NativeTokenizer(vocab=1, tokenize=ctypes.cast(tokenize_bytes, ctypes.c_void_p).value or 0)


def _tokenize_bytes(_: int, text: int, length: int, token_ids: Any, capacity: int, *__: bool) -> int:
    """What llama.cpp's llama_tokenize is called like: the bytes themselves, or minus their number."""
    if length > capacity:
        return -length
    for index, byte in enumerate(ctypes.string_at(text, length)):
        token_ids[index] = byte
    return length


tokenize_bytes = TOKENIZE(_tokenize_bytes)


class Call(NamedTuple):
    """What was asked of a memory."""

    name: str
    seq_id: int
    num_tokens: int = 0
    target: int | None = None


class RecordingMemory:
    """Notes the calls, and holds (cell, token) pairs by slot; slots that share a prefix share its cells.

    "full" can do everything, "recurrent" continues from the latest token alone and shares nothing, "stubborn" promises
    what it then refuses, "split" has cells for each slot alone.
    """

    def __init__(self, kind: MemoryKind = "full") -> None:
        self.kind = kind
        self.shares_prefixes = kind != "recurrent"
        self.is_unified = kind != "split"
        self.calls: list[Call] = []
        self.cells: dict[int, list[tuple[int, int]]] = {}
        self.adapters: dict[int, Adapter] = {}  # of each cell: the one that it was computed with
        self._next_cell = count()

    @property
    def num_used_cells(self) -> int:
        return len({cell for cells in self.cells.values() for cell, _ in cells})

    def token_ids(self, seq_id: int) -> list[int]:
        return [token_id for _, token_id in self.cells.get(seq_id, [])]

    def write(self, seq_id: int, start: int, token_ids: list[int], adapter: Adapter = None) -> None:
        """What `llama_decode` does: tokens follow those that are there, which were computed with the same adapter."""
        held = self.cells.setdefault(seq_id, [])
        assert start == len(held), "a gap in the positions, or a position twice"
        assert all(self.adapters[cell] == adapter for cell, _ in held), "what another adapter has computed is reused"
        new = [(next(self._next_cell), token_id) for token_id in token_ids]
        held += new
        self.adapters.update({cell: adapter for cell, _ in new})

    def can_resume(self, seq_id: int, num_tokens: int) -> bool:
        return self.kind != "recurrent" or num_tokens == len(self.cells.get(seq_id, []))

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        assert self.shares_prefixes
        assert not self.cells.get(target), "the target of a copy is not empty"
        assert num_tokens <= len(self.cells[source]), "more is copied than there is"
        self.calls.append(Call("copy", source, num_tokens, target))
        self.cells[target] = self.cells[source][:num_tokens]
        if not self.is_unified:
            copied = [(next(self._next_cell), *cell) for cell in self.cells[target]]
            self.cells[target] = [(new, token_id) for new, _, token_id in copied]
            self.adapters.update({new: self.adapters[old] for new, old, _ in copied})

    def restore(self, seq_id: int, state: list[int]) -> bool:
        """`state`: the token ids themselves."""
        self.calls.append(Call("restore", seq_id, len(state)))
        self.cells[seq_id] = []
        self.write(seq_id, 0, state)
        return True

    def truncate(self, seq_id: int, num_tokens: int) -> bool:
        self.calls.append(Call("truncate", seq_id, num_tokens))
        if self.kind not in ("full", "split"):
            return False
        del self.cells[seq_id][num_tokens:]
        return True

    def clear(self, seq_id: int) -> None:
        self.calls.append(Call("clear", seq_id))
        self.cells[seq_id] = []


class FakeSampler:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.is_closed = False
        self._events = events

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True
        self._events.append(f"close {self.name}")


class FakeRunner:
    """Answers the prompts of `scripts` with their texts and an end, all others with endless noise.

    `events` has "step a b" for a step of the prompts a and b, and "close a" when a's sampler is closed. With `hold()`
    each step waits for `permit()`; `wait_for_step()` waits until one has begun.
    """

    def __init__(
        self,
        scripts: dict[str, str] | None = None,
        *,
        kind: MemoryKind = "full",
        num_slots: int = 4,
        num_cells: int = 1000,
        max_model_len: int | None = None,
        specials: Iterable[str] = (),
    ) -> None:
        self.memory = RecordingMemory(kind)
        self.vocabulary = ByteVocabulary(*specials)
        self.num_slots = num_slots
        self.num_cells = num_cells
        self.max_model_len = max_model_len or num_cells
        self.max_whole_run = 100
        self.events: list[str] = []
        self.samplers: list[FakeSampler] = []
        self.failures: deque[Exception | None] = deque()  # what the next steps raise
        self.is_closed = False
        self._scripts = [
            (len(self.tokenize(prompt)), self.tokenize(prompt) + self.tokenize(answer))
            for prompt, answer in (scripts or {}).items()
        ]
        self._launched: Batch | None = None
        self._begun: SimpleQueue[str] = SimpleQueue()
        self._permits: threading.Semaphore | None = None

    def hold(self) -> None:
        self._permits = threading.Semaphore(0)

    def permit(self, num_steps: int = 1) -> None:
        assert self._permits is not None
        self._permits.release(num_steps)

    def let_go(self) -> None:
        self.permit(1_000_000)

    def wait_for_step(self) -> str:
        return self._begun.get(timeout=TIMEOUT)

    def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
        return self.vocabulary.tokenize(text.text if isinstance(text, MixedText) else text)

    def tokenize_plain(self, text: str) -> list[int]:
        return list(text.encode())

    @property
    def fim_tokens(self) -> FimTokens | None:
        """Where its special tokens are named so."""
        pre, suf, mid, file = map(self.vocabulary.special_token, ("<pre>", "<suf>", "<mid>", "<file>"))
        return None if pre is None or suf is None or mid is None else FimTokens(pre, suf, mid, file=file)

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> Sampler:
        sampler = FakeSampler(as_text(prompt_token_ids), self.events)
        self.samplers.append(sampler)
        return sampler

    def run(self, batch: Batch) -> list[list[SampledToken]]:
        """A whole step, without an engine."""
        times = StepTimes()
        self.launch(batch, times)
        return self.collect(batch, times)

    def launch(self, batch: Batch, times: StepTimes) -> None:
        assert self._launched is None, "the last batch was not collected"
        self._launched = batch
        times.lap("fill")

    def collect(self, batch: Batch, times: StepTimes) -> list[list[SampledToken]]:
        assert self._launched is batch, "another batch was launched"
        self._launched = None
        self._begin(batch)
        if self.failures and (failure := self.failures.popleft()):
            raise failure
        if self.memory.num_used_cells + batch.num_tokens > self.num_cells:
            raise CacheFullError("No place in the KV cache for this batch.")
        assert batch.run is None or len(batch.items) == 1, "embeddings and tokens in one batch"
        for item in batch.items:
            assert item.token_ids == item.run.token_ids if item.run else min(item.token_ids) >= 0, "a run that is cut"
            assert item.sequence.adapter == batch.adapter, "two adapters in one batch"
            self.memory.write(item.slot.seq_id, item.start, item.token_ids, batch.adapter)
        times.lap("wait")
        assert sum(len(item.scored) for item in batch.items) <= MAX_SCORED_TOKENS, "more rows than there is room for"
        for item in batch.items:
            held = self.memory.token_ids(item.slot.seq_id)
            prompt = item.sequence.token_ids
            item.prompt_logprobs = [score(held[: place + 1], prompt[place + 1]) for place in item.scored]
        return list(self._sample(batch))

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True

    def _begin(self, batch: Batch) -> None:
        prompts = [as_text(item.sequence.token_ids[: item.sequence.num_prompt_tokens]) for item in batch.items]
        event = " ".join(["step", *prompts])
        self.events.append(event)
        self._begun.put(event)
        if self._permits is not None:
            assert self._permits.acquire(timeout=TIMEOUT), "no permit came"

    def _sample(self, batch: Batch) -> Iterator[list[SampledToken]]:
        for item in batch.sampling:
            held = self.memory.token_ids(item.slot.seq_id)
            drawn = [self._draw(item, held[: item.start + item.num_tokens])]
            for place, token_id in enumerate(item.draft_token_ids, start=1):
                if drawn[-1].token_id != token_id:
                    break
                drawn.append(self._draw(item, held[: item.start + item.num_tokens + place]))
            yield drawn

    def _draw(self, item: ScheduledSequence, prefix: list[int]) -> SampledToken:
        token_id = self.next_token(prefix, item.sequence.adapter)
        wanted = item.sequence.params.num_logprobs is not None
        return SampledToken(token_id, logprob(token_id) if wanted else None)

    def next_token(self, token_ids: list[int], adapter: Adapter = None) -> int:
        if adapter is not None:
            return noise([*adapter.encode(), *token_ids])
        for num_prompt_tokens, whole in self._scripts:
            if len(token_ids) >= num_prompt_tokens and token_ids == whole[: len(token_ids)]:
                return whole[len(token_ids)] if len(token_ids) < len(whole) else END
        return noise(token_ids)

    def answer(self, prompt: str, num_tokens: int, adapter: Adapter = None) -> str:
        """What a fresh cache would say."""
        token_ids = self.tokenize(prompt)
        for _ in range(num_tokens):
            token_ids.append(self.next_token(token_ids, adapter))
        return as_text(token_ids)[len(prompt) :]


def create_engine(runner: FakeRunner, limits: Limits | None = None, *, max_queue: int = 100, **options: Any) -> Engine:
    """An engine on a fake model. Schemas are compiled for real, so that a wrong one shows."""
    options = {"schemas": GrammarCompiler(runner.vocabulary), **options}
    return Engine(runner, limits or Limits(runner.num_slots, 64, 16), max_queue=max_queue, **options)


def noise(token_ids: list[int]) -> int:
    """A letter that depends on every token before it."""
    return ord("a") + zlib.crc32(bytes(token_id % 256 for token_id in token_ids)) % 26


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, ByteVocabulary().piece(token_id), -1.0)


def score(token_ids: list[int], next_token_id: int) -> TokenLogprob:
    """A logprob that depends on every token before this one."""
    return logprob(next_token_id)._replace(logprob=-float(noise(token_ids)), rank=len(token_ids))


def as_text(token_ids: list[int]) -> str:
    return bytes(token_id for token_id in token_ids if 0 <= token_id < END).decode(errors="replace")
