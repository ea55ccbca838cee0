"""From a prompt to its token ids, whatever it is written as."""

from typing import NamedTuple

from handler.engine.infill import infill_tokens
from handler.engine.media_encoder import Media
from handler.engine.media_run import MediaRun
from handler.engine.prompt import Infill, MediaPrompt, Prompt
from handler.engine.runner import Runner
from handler.errors import ContextLengthError, InvalidRequestError


class PromptTokens(NamedTuple):
    """A prompt's token ids, and the media runs among them by the place of their first one."""

    token_ids: list[int]
    runs: dict[int, MediaRun]

    @property
    def text_ids(self) -> list[int]:
        """Without the negative ones, which stand for media."""
        return [token_id for token_id in self.token_ids if token_id >= 0] if self.runs else self.token_ids


class PromptReader:
    """Tokenizes prompts by a runner's vocabulary, and refuses those that it cannot compute. Any thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def read(self, prompt: Prompt, media: list[Media], max_answer: int | None) -> PromptTokens:
        """`media` are a prompt's own, encoded. `max_answer`: tokens of the answer, for which a prompt that may be cut
        leaves room, or a quarter of all. Raises InvalidRequestError, of which is ContextLengthError."""
        if isinstance(prompt, MediaPrompt):
            tokens = self.join(prompt, media)
        else:
            tokens = PromptTokens(self._token_ids(prompt, max_answer), {})
        self._check(tokens)
        return tokens

    def join(self, prompt: MediaPrompt, media: list[Media], *, add_special: bool = True) -> PromptTokens:
        """Its texts' tokens with the media between them. Raises InvalidRequestError for media that are longer than what
        the runner computes at once."""
        token_ids: list[int] = []
        runs: dict[int, MediaRun] = {}
        for text, parts in zip(prompt.texts, [(), *media], strict=True):
            for part in parts:
                if isinstance(part, MediaRun):
                    self._check_run(part)
                    runs[len(token_ids)] = part
                    token_ids += part.token_ids
                else:
                    token_ids += part
            token_ids += self._runner.tokenize(text, add_special=add_special and not token_ids)
        return PromptTokens(token_ids, runs)

    def _token_ids(self, prompt: Prompt, max_answer: int | None) -> list[int]:
        if isinstance(prompt, Infill):
            a_quarter = self._runner.max_model_len // 4
            room = self._runner.max_model_len - max(1, min(max_answer or a_quarter, a_quarter))
            return infill_tokens(prompt, self._runner.fim_tokens, self._runner.tokenize_plain, room)
        assert not isinstance(prompt, MediaPrompt), "it is joined"
        return prompt if isinstance(prompt, list) else self._runner.tokenize(prompt)

    def _check(self, tokens: PromptTokens) -> None:
        token_ids, text_ids = tokens.token_ids, tokens.text_ids
        if not token_ids:
            raise InvalidRequestError("The prompt is empty.", param="prompt")
        if token_ids[-1] < 0 and tokens.runs:
            raise InvalidRequestError("The prompt must not end with an image.", param="prompt")
        if not 0 <= min(text_ids) <= max(text_ids) < self._runner.vocabulary.num_tokens:
            raise InvalidRequestError("The prompt has token ids that are not in the vocabulary.", param="prompt")
        if len(token_ids) >= self._runner.max_model_len:
            raise ContextLengthError(
                f"This model's maximum context length is {self._runner.max_model_len} tokens, but the prompt alone "
                f"has {len(token_ids)}. Please shorten it."
            )

    def _check_run(self, run: MediaRun) -> None:
        most = self._runner.max_whole_run
        if not run.is_causal and run.num_tokens > most:
            raise InvalidRequestError(f"An image takes {run.num_tokens} tokens here, of which {most} are possible.")
