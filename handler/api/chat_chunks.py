"""A chat's events in OpenAI's form: the chunks of a stream, and the whole answer."""

import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from handler.api import sse
from handler.api.common import Answer, Identity, token_logprob, token_text, total_usage
from handler.api.openai_types import (
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionTokenLogprob,
    ChatLogprobs,
    ChoiceDelta,
    ChoiceDeltaFunctionCall,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
    ChunkChoice,
    ChunkLogprobs,
    TopLogprob,
)
from handler.api.stream import Outputs
from handler.api.turn import AnswerEnd, AnswerForm, Turn, TurnPart
from handler.chat.events import Arguments, CallBegun, Content, Event, Reasoning
from handler.chat.message import MessageBuilder
from handler.engine.logprobs import TokenLogprob
from handler.engine.sequence import SequenceOutput, SequenceUsage

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class ChatChunks:
    """Writes one answer. Each choice: its role, its text, reasoning and calls as they come, its finish; then, if asked
    for, the usage.

    `is_old`: calls are written as OpenAI's older `function_call`, of which a choice has one.
    """

    def __init__(
        self,
        identity: Identity,
        form: AnswerForm,
        *,
        include_usage: bool = False,
        is_old: bool = False,
        doubles_reasoning: bool = False,
    ) -> None:
        self.identity = identity
        self.is_old = is_old
        self.doubles_reasoning = doubles_reasoning
        self._form = form
        self._include_usage = include_usage
        self._turns: dict[int, Turn] = {}  # of each choice that has begun
        self._event_templates: dict[tuple[int, type[Event], int], sse.EventTemplate] = {}
        self._usages: dict[int, SequenceUsage] = {}

    def turn(self) -> Turn:
        """For one more choice."""
        return Turn(self._form)

    def events(self, outputs: Outputs) -> str:
        return "".join([self._choice_events(index, output) for index, output in outputs.items()])

    def end(self) -> str:
        if not self._include_usage:
            return sse.DONE
        usages = [self._usages[index] for index in sorted(self._usages)]
        chunk = self._chunk([])
        chunk.usage = total_usage(usages, n=len(usages))
        return sse.encode(chunk) + sse.DONE

    def _choice_events(self, index: int, output: SequenceOutput) -> str:
        turn = self._turns.get(index)
        if turn is not None and turn.is_plain and output.finish_reason is None and not output.logprobs:
            return self._event_template(index, Content).encode(output.text) if output.text else ""
        texts: list[str] = []
        if turn is None:
            turn = self._turns[index] = self.turn()
            texts.append(sse.encode(self._delta(index, ChoiceDelta(role="assistant", content=""))))
        part = turn.feed(output)
        if part.logprobs:
            texts += self._events_with_logprobs(index, part)
        else:
            texts += [self._event(index, event) for event in joined(part.events)]
        if part.usage is not None and part.end is not None:
            self._usages[index] = part.usage
            finish = ChunkChoice(index=index, delta=ChoiceDelta(), finish_reason=finish_reason(part.end, self.is_old))
            texts.append(sse.encode(self._chunk([finish])))
        return "".join(texts)

    def _events_with_logprobs(self, index: int, part: TurnPart) -> list[str]:
        """All content of the part is in one chunk, with the logprobs of its tokens; before it what came first."""
        text = "".join(event.text for event in part.events if isinstance(event, Content))
        choice = ChunkChoice(index=index, delta=ChoiceDelta(content=text), finish_reason=None)
        choice.logprobs = ChunkLogprobs(content=tokens(part.logprobs), refusal=None)
        is_before = True
        before: list[str] = []
        after: list[str] = []
        for event in joined(part.events):
            if isinstance(event, Content):
                is_before = False
            else:
                (before if is_before else after).append(self._event(index, event))
        return [*before, sse.encode(self._chunk([choice])), *after]

    def _event(self, index: int, event: Event) -> str:
        match event:
            case Content(text) | Reasoning(text):
                return self._event_template(index, type(event)).encode(text)
            case Arguments(call, text):
                return "" if self.is_old and call else self._event_template(index, Arguments, call).encode(text)
            case CallBegun(call, name):
                return "" if self.is_old and call else sse.encode(self._delta(index, self._begun(call, name)))
            case _:
                return ""

    def _event_template(self, index: int, kind: type[Event], call: int = 0) -> sse.EventTemplate:
        key = (index, kind, call)
        if key not in self._event_templates:
            self._event_templates[key] = sse.EventTemplate(lambda text: sse.encode(self._text_chunk(*key, text)))
        return self._event_templates[key]

    def _text_chunk(self, index: int, kind: type[Event], call: int, text: str) -> ChatCompletionChunk:
        if kind is Content:
            delta = ChoiceDelta(content=text)
        elif kind is Reasoning:
            delta = ChoiceDelta.model_validate(self.reasoning(text))
        elif self.is_old:
            delta = ChoiceDelta(function_call=ChoiceDeltaFunctionCall(arguments=text))
        else:
            function = ChoiceDeltaToolCallFunction(arguments=text)
            delta = ChoiceDelta(tool_calls=[ChoiceDeltaToolCall(index=call, function=function)])
        return self._delta(index, delta)

    def _begun(self, call: int, name: str) -> ChoiceDelta:
        """The first delta of a call has all that is known of it."""
        if self.is_old:
            return ChoiceDelta(function_call=ChoiceDeltaFunctionCall(name=name, arguments=""))
        function = ChoiceDeltaToolCallFunction(name=name, arguments="")
        return ChoiceDelta(
            tool_calls=[ChoiceDeltaToolCall(index=call, id=new_call_id(call), type="function", function=function)]
        )

    def reasoning(self, text: str) -> dict[str, str]:
        """The fields that reasoning is sent in."""
        names = ("reasoning_content", "reasoning") if self.doubles_reasoning else ("reasoning_content",)
        return dict.fromkeys(names, text)

    def _delta(self, index: int, delta: ChoiceDelta) -> ChatCompletionChunk:
        return self._chunk([ChunkChoice(index=index, delta=delta, finish_reason=None)])

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self.identity._asdict(), object="chat.completion.chunk", choices=choices)


def chat_completion(writer: ChatChunks, outputs: list[SequenceOutput]) -> Answer:
    """The whole answer of the outputs, one for each choice: the same events in one piece."""
    return ChatCompletion(
        **writer.identity._asdict(),
        object="chat.completion",
        choices=[_choice(writer, index, output) for index, output in enumerate(outputs)],
        usage=total_usage([output.usage for output in outputs if output.usage], n=len(outputs)),
    ).model_dump(exclude_unset=True)


def _choice(writer: ChatChunks, index: int, output: SequenceOutput) -> ChatChoice:
    part = writer.turn().feed(output)
    assert part.end is not None, "an answer is whole when its sequence is finished"
    builder = MessageBuilder(new_call_id)
    builder.add(part.events)
    logprobs = ChatLogprobs(content=tokens(part.logprobs), refusal=None) if part.logprobs else None
    return ChatChoice(
        index=index,
        message=_message(writer, builder.message()),
        logprobs=logprobs,
        finish_reason=finish_reason(part.end, writer.is_old),
    )


def _message(writer: ChatChunks, message: dict[str, Any]) -> ChatCompletionMessage:
    reasoning, calls = message.pop("reasoning_content", None), message.pop("tool_calls", None)
    fields = {**message, "refusal": None, **(writer.reasoning(reasoning) if reasoning else {})}
    if calls and writer.is_old:
        fields["function_call"] = calls[0]["function"]
    elif calls:
        fields["tool_calls"] = calls
    return ChatCompletionMessage.model_validate(fields)


def joined(events: Iterable[Event]) -> Iterator[Event]:
    """Neighbouring texts of one kind as one."""
    last: Content | Reasoning | Arguments | None = None
    for event in events:
        if isinstance(event, Content | Reasoning | Arguments) and type(event) is type(last):
            last = last._replace(text=last.text + event.text)
            continue
        if last is not None:
            yield last
        last = event if isinstance(event, Content | Reasoning | Arguments) else None
        if last is None:
            yield event
    if last is not None:
        yield last


def new_call_id(_call: int) -> str:
    """Opaque, and no two alike in a conversation: what a family's template wants is made of it while rendering."""
    return f"call_{secrets.token_hex(12)}"


def finish_reason(end: AnswerEnd, is_old: bool) -> FinishReason:
    return "function_call" if end == "tool_calls" and is_old else end


def tokens(entries: tuple[TokenLogprob, ...]) -> list[ChatCompletionTokenLogprob]:
    return [
        ChatCompletionTokenLogprob(
            token=token_text(entry),
            bytes=list(entry.piece),
            logprob=token_logprob(entry),
            top_logprobs=[
                TopLogprob(token=token_text(top), bytes=list(top.piece), logprob=token_logprob(top))
                for top in entry.top
            ],
        )
        for entry in entries
    ]
