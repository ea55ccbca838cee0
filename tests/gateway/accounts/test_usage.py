"""The counts that are read off an answer."""

import orjson
import pytest

from local_gateway.accounts.usage import Usage, UsageMeter
from local_gateway.wire.sse import DONE, encode

CHAT = "/chat/completions"


def delta(content: str) -> bytes:
    return encode({"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}], "usage": None})


def usage_chunk(**usage: object) -> bytes:
    return encode({"id": "c1", "choices": [], "usage": usage})


def meter_of(path: str = CHAT, *, wants_usage_chunk: bool = False, num_prompt_tokens: int = 7) -> UsageMeter:
    return UsageMeter(path, wants_usage_chunk=wants_usage_chunk, num_prompt_tokens=num_prompt_tokens)


def test_a_streams_own_counts_are_taken() -> None:
    """What the target says is what is paid, cached tokens included."""
    meter = meter_of()

    meter.watch(delta("Paris"))
    meter.watch(usage_chunk(prompt_tokens=10, completion_tokens=3, prompt_tokens_details={"cached_tokens": 8}) + DONE)

    assert meter.usage == Usage(10, 8, 3)


def test_a_usage_chunk_that_was_not_asked_for_is_swallowed() -> None:
    """Old clients break on a chunk without choices; all other bytes stay as they are."""
    block = delta("a") + usage_chunk(prompt_tokens=1, completion_tokens=1) + DONE

    assert meter_of().watch(block) == delta("a") + DONE


def test_a_usage_chunk_the_client_asked_for_is_left() -> None:
    """It is the client's own wish."""
    block = delta("a") + usage_chunk(prompt_tokens=1, completion_tokens=1) + DONE

    assert meter_of(wants_usage_chunk=True).watch(block) == block


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(encode({"choices": [], "prompt_filter_results": []}), id="no choices, but no usage"),
        pytest.param(encode({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}), id="usage with a choice"),
        pytest.param(b'data: {"choices":[],"usage":{"prompt_tok\n\n', id="broken JSON"),
        pytest.param(b'data: {"choices":[],"x_groq":{"usage":{"queue_time":1}}}\n\n', id="another's usage"),
        pytest.param(b'data: ["usage", {"usage":{}}]\n\n', id="a list"),
        pytest.param(b': "usage":{}\n\n', id="a comment"),
    ],
)
def test_everything_else_is_left_byte_for_byte(block: bytes) -> None:
    """The gateway does not model what it forwards."""
    assert meter_of().watch(block) == block


def test_foreign_line_ends_survive() -> None:
    """Events are cut as the standard says, not re-written."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}\r\n\r\n'
    meter = meter_of()

    assert meter.watch(b"data: {}\r\n\r\n" + usage + b"data: [DONE]\r\n\r\n") == b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n"
    assert meter.usage == Usage(4, 0, 2)


def test_text_that_speaks_of_usage_is_no_usage() -> None:
    """A model that writes JSON into its answer does not write its own bill."""
    meter = meter_of()
    block = delta('{"usage":{"prompt_tokens":0,"completion_tokens":0}}')

    assert meter.watch(block) == block
    assert meter.usage.is_estimated


def test_without_counts_the_observed_text_is_estimated() -> None:
    """A client that leaves in mid-answer pays for what it was sent: one token an event."""
    meter = meter_of()

    for word in ("", "Hi", " ", "you"):
        meter.watch(delta(word))

    assert meter.usage == Usage(7, 0, 3, is_estimated=True)


def test_collected_events_are_estimated_by_their_length() -> None:
    """RunPod's streams come in few large events."""
    meter = meter_of()

    meter.watch(delta("x" * 400))

    assert meter.usage == Usage(7, 0, 100, is_estimated=True)


def test_escaped_letters_count_as_letters() -> None:
    r"""A letter written as \u0416 is no six letters."""
    meter = meter_of()

    meter.watch(b'data: {"choices":[{"delta":{"content":"' + rb"\u0416" * 40 + b'"}}]}\n\n')

    assert meter.usage.num_completion_tokens == 20


def test_an_explicit_zero_is_a_count() -> None:
    """Only what is missing is estimated."""
    meter = meter_of()

    meter.watch(delta("some text") + usage_chunk(prompt_tokens=0, completion_tokens=0))

    assert meter.usage == Usage(0, 0, 0)


@pytest.mark.parametrize("count", [None, -1, 10**18, 1.5, "12", True])
def test_a_count_that_is_none_is_estimated(count: object) -> None:
    """Neither the bill nor the database takes nonsense from a target."""
    meter = meter_of()

    meter.watch(delta("four") + usage_chunk(prompt_tokens=count, completion_tokens=count))

    assert meter.usage == Usage(7, 0, 1, is_estimated=True)


def test_the_last_usage_counts() -> None:
    """Some targets send running counts in every event."""
    meter = meter_of()

    for n in (1, 2, 3):
        meter.watch(encode({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 5, "completion_tokens": n}}))

    assert meter.usage == Usage(5, 0, 3)


def test_before_anything_came_nothing_was_used() -> None:
    """A request that failed costs nothing."""
    assert meter_of().usage == Usage()


@pytest.mark.parametrize(
    ("path", "body", "usage"),
    [
        (CHAT, {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}, Usage(9, 0, 4)),
        ("/completions", {"usage": {"prompt_tokens": 9, "completion_tokens": 4}}, Usage(9, 0, 4)),
        ("/embeddings", {"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}}, Usage(9, 0, 0)),
        (
            "/responses",
            {"usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 4}},
            Usage(9, 2, 4),
        ),
        ("/images/generations", {"usage": {"input_tokens": 50, "output_tokens": 900}}, Usage(50, 0, 900)),
        ("/audio/speech", {"anything": 1}, Usage()),
        (CHAT, {"choices": [{"message": {"content": "x" * 40}}]}, Usage(7, 0, 10, is_estimated=True)),
        ("/infill", {"content": "x" * 40, "stop": True}, Usage(7, 0, 10, is_estimated=True)),
        ("/rerank", {"results": []}, Usage(7, 0, 0, is_estimated=True)),
    ],
)
def test_whole_answers(path: str, body: object, usage: Usage) -> None:
    """Every endpoint's names for the same counts."""
    meter = meter_of(path)

    meter.read_body(orjson.dumps(body))

    assert meter.usage == usage


def test_an_answer_that_is_no_json_is_not_read() -> None:
    """Sound and files pass by."""
    meter = meter_of("/audio/speech")

    meter.read_body(b'\xff\xfb"usage":{\x00')

    assert meter.usage == Usage()


def test_the_responses_api_streams_its_usage_inside_its_response() -> None:
    """Its last event repeats the whole answer, which is not counted twice."""
    meter = meter_of("/responses")
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 6, "output_tokens": 2}}}
    events = encode({"type": "response.output_text.delta", "delta": "Hi"}) + encode(
        {"type": "response.output_text.done", "text": "Hi" * 100}
    )

    assert meter.watch(events) == events
    assert meter.usage == Usage(7, 0, 1, is_estimated=True)
    assert meter.watch(encode(done)) == encode(done)
    assert meter.usage == Usage(6, 0, 2)
