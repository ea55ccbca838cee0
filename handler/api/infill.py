"""POST /infill, llama-server's: two texts in, what belongs between them out. Editors' plugins ask it."""

import asyncio
import json
from typing import Any

from handler.api.common import Answer, total_usage
from handler.api.model_names import ServedNames
from handler.api.protocol import InfillRequest, parse
from handler.api.sampling import sampling_params
from handler.api.stream import EventStream, Outputs
from handler.engine.engine import Engine
from handler.engine.prompt import Infill
from handler.engine.sequence import FinishReason, SequenceOutput
from handler.errors import SchemaError


class Infills:
    """`suffix_first`: the order in which the model was trained; else the prefix comes first."""

    def __init__(self, engine: Engine, names: ServedNames, *, suffix_first: bool = False) -> None:
        self._engine = engine
        self._names = names
        self._suffix_first = suffix_first

    async def create(self, body: object) -> Answer | EventStream:
        """Answer a decoded body. Texts that are too long are cut, away from the gap. Raises RequestError."""
        request = await asyncio.to_thread(parse, InfillRequest, body)
        writer = InfillWriter(self._names.resolve(request.model))
        prompt = Infill(
            request.input_prefix,
            request.input_suffix,
            begun=request.prompt,
            extra=tuple((file.filename, file.text) for file in request.input_extra),
            suffix_first=self._suffix_first,
            may_cut=True,
        )
        try:
            generation = await self._engine.generate(
                [prompt], sampling_params(request), adapter=self._names.adapter(request.model)
            )
        except SchemaError as error:
            raise error.at(request.wanted.param if request.wanted else "response_format") from error
        if request.stream:
            return await EventStream.open(generation, writer)
        [output] = await generation.result()
        return writer.whole(output)


class InfillWriter:
    """llama-server's native form, with OpenAI's `usage` at the end beside its own counts."""

    def __init__(self, model: str) -> None:
        self._model = model

    def whole(self, output: SequenceOutput) -> Answer:
        answer: dict[str, Any] = {"index": 0, "content": output.text, "tokens": [], "stop": True, "model": self._model}
        is_length = output.finish_reason is FinishReason.LENGTH
        word = output.ended_by if isinstance(output.ended_by, str) else ""
        answer |= {"stop_type": "limit" if is_length else "word" if word else "eos", "stopping_word": word}
        if output.usage is not None:
            answer |= {
                "tokens_predicted": output.usage.num_completion_tokens,
                "tokens_evaluated": output.usage.num_prompt_tokens,
                "tokens_cached": output.usage.num_cached_tokens,
                "usage": total_usage([output.usage], 1).model_dump(exclude_unset=True),
            }
        return answer

    def events(self, outputs: Outputs) -> str:
        return "".join(map(self._event, outputs.values()))

    def end(self) -> str:
        """Nothing: the last event says `stop`."""
        return ""

    def _event(self, output: SequenceOutput) -> str:
        if output.finish_reason is not None:
            return _encode(self.whole(output))
        return _encode({"index": 0, "content": output.text, "tokens": [], "stop": False}) if output.text else ""


def _encode(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
