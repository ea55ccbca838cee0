"""The model on its device, as the engine needs it."""

from typing import Protocol

from handler.engine.batch import Batch
from handler.engine.cache.memory import Memory
from handler.engine.infill import FimTokens
from handler.engine.prompt import MixedText
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import SampledToken, Sampler
from handler.engine.step_times import StepTimes
from handler.engine.vocabulary import Vocabulary


class Runner(Protocol):
    """Computes batches and samples their tokens.

    `launch` and `collect` are called by the engine thread alone, in turns; the rest by any thread. Knows batches and
    slots; nothing of queues, text, stopping and schemas.
    """

    num_slots: int
    num_cells: int  # of the KV cache, a token each
    max_model_len: int  # tokens of one sequence, prompt and answer
    max_whole_run: int  # tokens of a media run that attend to each other in both directions

    @property
    def memory(self) -> Memory: ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    def tokenize(self, text: str | MixedText, *, add_special: bool = True) -> list[int]:
        """The tokens of a text, with the model's BOS token if `add_special`. Raises InvalidRequestError, of which is
        ContextLengthError where the work to count the tokens would have no bound."""
        ...

    def tokenize_plain(self, text: str) -> list[int]:
        """The tokens of a text in which no control tokens are read, without the model's own beginning."""
        ...

    @property
    def fim_tokens(self) -> FimTokens | None:
        """By which the model fills in the middle; None where it was not made for that."""
        ...

    def make_sampler(self, params: SamplingParams, prompt_token_ids: list[int]) -> Sampler:
        """The state of one sequence's sampling. Raises InvalidRequestError for tokens out of the vocabulary."""
        ...

    def launch(self, batch: Batch, times: StepTimes) -> None:
        """Start to compute a batch with its adapter, if the device can do so while this thread does something else.

        Where this thread is the device, or would wait for it, all is left to `collect`. Raises CacheFullError, and
        then nothing has happened, or DecodeError.
        """
        ...

    def collect(self, batch: Batch, times: StepTimes) -> list[list[SampledToken]]:
        """Finish the batch that was launched; for each item of `batch.sampling` the accepted tokens of its draft and
        one token more. Items with scored positions get their `prompt_logprobs`.

        Rejected drafts are left in the memory. Raises as `launch` does.
        """
        ...

    def close(self) -> None:
        """Free the model. Nothing else is called any more."""
        ...
