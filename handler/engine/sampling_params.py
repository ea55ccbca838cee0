"""A request's parameters of sampling and stopping. Ranges are checked where the request enters, not here."""

from dataclasses import dataclass, replace
from typing import Self

from handler.engine.answer_parts import PartMarkers
from handler.engine.constraint import Constraint


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Defaults are llama.cpp's own where OpenAI has no such parameter or leaves it to the model."""

    temperature: float = 0.8  # 0: the most likely token, always
    top_k: int = 40  # 0: off
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0

    repeat_penalty: float = 1.0  # over prompt and answer
    repeat_last_n: int = 64  # tokens the repeat penalty looks back; -1: all
    frequency_penalty: float = 0.0  # over the answer alone, as OpenAI defines it
    presence_penalty: float = 0.0

    dry_multiplier: float = 0.0  # 0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1  # -1: all
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")

    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1

    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    max_tokens: int | None = None  # None: as many as the context leaves; 0: the prompt is computed, and that is all
    min_tokens: int = 0  # before them, neither an end token nor one of `stop_token_ids` is drawn
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # end an answer, as the model's own end tokens do
    ignore_eos: bool = False
    num_logprobs: int | None = None  # None: no logprobs; 0: the sampled token's alone; k: the top k too
    has_end_logprob: bool = False  # the token that ends an answer, and has no text, has its logprobs too
    num_prompt_logprobs: int | None = None  # the same for the prompt's tokens, each after those before it
    constraint: Constraint | None = None  # what the answer must consist of; None: anything
    shown_tokens: tuple[str, ...] = ()  # where one is a single special token: it is in the text, and has a mark
    parts: PartMarkers | None = None  # None: all of the answer is content

    @property
    def is_reproducible(self) -> bool:
        """Whether equal requests should give equal text: a seed was given, and draws depend on it."""
        return self.seed is not None and self.temperature > 0

    @property
    def bans_end(self) -> bool:
        """Whether tokens that end an answer are never drawn. A constrained answer ends where it is complete."""
        return self.ignore_eos and self.constraint is None

    def of_choice(self, index: int) -> Self:
        """The parameters of one of a prompt's choices: equal seeds must not give equal answers, and the prompt is
        scored with the first one."""
        if not index or (self.seed is None and self.num_prompt_logprobs is None):
            return self
        seed = None if self.seed is None else self.seed + index
        return replace(self, seed=seed, num_prompt_logprobs=None)
