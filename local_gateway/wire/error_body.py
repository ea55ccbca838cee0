"""An error as any server or worker writes it → HTTP's status and OpenAI's `error` object. The only place that knows.

Two questions are answered here. `explain`: a body that is known to be an error (by its status, or as the error of a
job) - what does it say? `error_in`: a body that came as a success - is it an error all the same? Pure.

Shapes that are read, also nested in each other, in a list, as JSON text and as Python's repr of a dict:

    {"error": {"message", "type", "param", "code"}}     OpenAI, llama.cpp, Ollama's /v1, this project's worker
    {"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, also in a list      Gemini
    {"error": "text", "error_type": "validation"}       TGI, Ollama's own API, plain RunPod functions
    {"object": "error", "message", "type", "code"}      vLLM before 0.10.1, SGLang
    {"type": "error", "error": {"type", "message"}}     Anthropic; {"type": "error", "message"} and response.failed
    {"detail": "text" | [{"loc", "msg"}] | {...}}       FastAPI; with "title" and "status" problem+json
    {"message": "text" | {...}}, {"errors": [...]}      Mistral, Cohere, Cloudflare
    {"error_type", "error_message", ...}                RunPod's SDK, of a handler that raised
    "vLLM returned HTTP 400: {...}", "Error code: 404 - {...}"     worker-vllm, openai-python's exceptions
    text, HTML, a traceback
"""

import ast
import html
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

Json = dict[str, Any]

MAX_TEXT_CHARS = 100_000  # of an error that are looked at
MAX_MESSAGE_CHARS = 4_000
MAX_PAGE_CHARS = 300  # of a text that was written for people: a page, a log
UNPROCESSABLE = 422  # HTTP's status for what does not match a schema
MAX_DEPTH = 6  # of errors in errors

# Names of fields, as `_folded` makes them: errorMessage, error_message and ErrorMessage are one.
NESTED = ("error", "errors", "fault", "baseresp", "response", "exception", "exceptions")
SAID = (
    *("message", "msg", "detail", "details", "errormessage", "errormsg", "errordescription", "statusmsg"),
    *("faultstring", "err"),
)
MESSAGES = (*SAID, "reason", "description", "title", "text")  # the last say what is wrong where it is known that it is
STATUSES = ("status", "statuscode", "httpstatus", "httpcode", "rawstatuscode", "code", "errorcode", "error")
TYPES = ("type", "errortype")
# What only says that a body is an error.
MARKS = (("object", "error"), ("type", "error"), ("status", "error"), ("error", True), ("success", False))
# Fields of answers. A body that has one of them and no `error` is an answer.
RESULTS = {
    "choices",
    "data",
    "output",
    "outputs",
    "result",
    "results",
    "content",
    "embedding",
    "embeddings",
    "text",
    "response",
    "tokens",
    "tokenids",
    "prompt",
    "inputtokens",
    "count",
    "generatedtext",
    "segments",
}
# Error classes of OpenAI, Anthropic, Google, vLLM, SGLang and TGI, without case, marks and a last "error".
NAMES = {
    400: "badrequest invalidrequest invalidargument invalidparameter invalidmodel invalidprompt "
    "toolusefailed contextlengthexceeded stringabovemaxlength "
    "contentfilter failedprecondition outofrange",
    401: "authentication unauthorized unauthenticated invalidapikey",
    402: "billing paymentrequired",
    403: "permission permissiondenied forbidden",
    404: "notfound modelnotfound resourcenotfound",
    408: "requesttimeout",
    409: "conflict",
    413: "requesttoolarge payloadtoolarge",
    422: "validation unprocessableentity",
    429: "ratelimit ratelimitexceeded resourceexhausted toomanyrequests insufficientquota throttling throttled",
    500: "internalserver internal server api generation incompletegeneration",
    503: "overloaded unavailable serviceunavailable modelnotready loading",
    504: "timeout gatewaytimeout deadlineexceeded",
}
STATUS_OF_NAME = {name: status for status, names in NAMES.items() for name in names.split()}
# What several servers say in words alone.
TOO_LONG = re.compile(
    r"context[ _-]?(?:window|length|size|limit)|maximum (?:context|model|input|sequence) length|max_model_len"
    r"|(?:prompt|input|request|conversation) (?:is )?too (?:long|large)|too many (?:input )?tokens"
    r"|reduce the length of|exceeds? the (?:available )?(?:context|model'?s|maximum)",
    re.IGNORECASE,
)
LOADING = re.compile(r"\b(?:is|still|currently) loading\b|^loading model\b", re.IGNORECASE)
NO_MODEL = re.compile(r"\bmodel\b.{0,200}?\b(?:does not exist|not found)\b", re.IGNORECASE | re.DOTALL)

QUOTED = re.compile(
    r"\b(?:HTTP|HTTPException|status(?:[ _]code)?|error code|(?:client|server) error)\W{0,3}([45]\d\d)\b"
    r"|^([45]\d\d)(?=:|, message=| (?:client|server) error\b)",
    re.IGNORECASE,
)
PAGE = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
PAGE_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
SDK_EXCEPTION = re.compile(
    r"(?:handler: )?(.*?)\s*\btraceback: ?Traceback \(.*", re.DOTALL
)  # of a generator, by RunPod's


class WireError(NamedTuple):
    """What an error says. `error` is OpenAI's object, with `message` if there are words at all."""

    status: int  # 400 to 599
    error: Json


class _Found(NamedTuple):
    """The parts of an error that were found so far; empty ones were not."""

    message: str = ""
    status: int = 0  # that is told as a number
    named: int = 0  # that follows from a name
    type: str = ""
    code: object = None
    param: object = None
    original: Json | None = None  # OpenAI's object as it came


def explain(content: object, status: int = 0) -> WireError:
    """A body (bytes, text or parsed JSON) that is known to be an error. HTTP's `status` counts, if there is one.

    Without, it is what the body says, in a number, a name or in words; else 500. Raises nothing.
    """
    found = _read(_decoded(content), 0)
    told = found.status or found.named or _status_of_words(found.message)
    return WireError(status or told or 500, _openai(found))


def error_in(body: object) -> WireError | None:
    """The error in a parsed body, or event, that came as a success. None: it is an answer, or not understood."""
    if isinstance(body, str):
        body = _literal(body) if body.lstrip().startswith("{") else None
    if isinstance(body, list):
        return next((error for item in body[:1] if isinstance(item, dict) and (error := error_in(item))), None)
    if not isinstance(body, dict):
        return None
    if _says_error(body):
        return explain(body)
    choices = body.get("choices")
    failed = next(filter(_has_failed, choices), None) if isinstance(choices, list) else None
    return explain(_of_choice(failed)) if failed else None


def is_too_long(error: Mapping[str, Any]) -> bool:
    """Whether an `error` object says that the request does not fit into the model's context."""
    if error.get("code") in ("context_length_exceeded", "string_above_max_length"):
        return True
    return error.get("type") == "exceed_context_size_error" or TOO_LONG.search(str(error.get("message"))) is not None


# Is it an error?


def _says_error(body: Json) -> bool:  # noqa: PLR0911 (one question after the other)
    body = _folded(body)
    if body.get("object") == "error" or body.get("type") in ("error", "response.failed"):
        return True
    if body.get("object") == "response":
        return body.get("status") == "failed"
    if isinstance(told := body.get("response"), dict) and told.get("object") == "response":
        return told.get("status") == "failed"  # an event of Responses
    is_answer = any(body[key] is not None for key in RESULTS & body.keys())
    if error := body.get("error"):
        return error is True or _status(error) > 0 or (isinstance(error, dict | list | str) and _says(error, is_answer))
    if is_answer:
        return isinstance(inner := body.get("response"), dict) and "error" in _folded(inner)
    if isinstance(body.get("message"), dict) and body["message"].keys() & {"content", "role"}:
        return False  # Ollama's own chat
    is_marked = body.get("success") is False or body.get("status") in ("error", "failed")
    if is_marked or any(isinstance(body.get(key), str | list | dict) and body[key] for key in (*SAID, *NESTED)):
        return True
    has_status = any(_status(body.get(key)) for key in STATUSES)
    return has_status and any(isinstance(body.get(key), str) and body[key] for key in MESSAGES)


def _says(error: Json | list[Any] | str, is_answer: bool) -> bool:
    """Whether it says something. Beside an answer an object of empty fields does not."""
    if not is_answer or isinstance(error, str):
        return True
    found = _read(error, 0)
    return bool(found.message or found.status or found.named)


def _has_failed(choice: object) -> bool:
    return isinstance(choice, dict) and bool(choice.get("error") or choice.get("finish_reason") == "error")


def _of_choice(choice: Json) -> object:
    if choice.get("error"):
        return choice["error"]
    return {"message": "The target broke the answer off with an error.", "code": None}


# What does it say?


def _decoded(content: object) -> object:
    if isinstance(content, bytes | bytearray):
        return content[: 4 * MAX_TEXT_CHARS].decode("utf-8", "replace").removeprefix("\ufeff")
    return content


def _read(value: object, depth: int) -> _Found:
    if depth > MAX_DEPTH:
        return _Found()
    if isinstance(value, str):
        return _read_text(value, depth)
    if isinstance(value, list):
        return _read_list(value, depth)
    return _read_object(value, depth) if isinstance(value, dict) else _Found()


def _read_object(body: Json, depth: int) -> _Found:
    """What an object says itself, where what is nested in it says nothing."""
    original, body = body, _folded(body)
    inner = next((found for found in _nested(body, depth) if found.message or found.status), _Found())
    code, place = body.get("code"), _location(body)
    own_status = next((status for key in STATUSES if (status := _status(body.get(key)))), 0)
    own_name = next((body[key] for key in TYPES if isinstance(body.get(key), str) and body[key] != "error"), "")
    own_name = own_name.removeprefix("<class '").removesuffix("'>")
    named = next((status for name in (code, own_name, body.get("status")) if (status := _status_of_name(name))), 0)
    # An error that a proxy packs up is told by its own status, not by the proxy's.
    return _Found(
        inner.message or _own_message(body, depth),
        inner.status or own_status,
        inner.named or named or (UNPROCESSABLE if place else 0),
        inner.type or own_name,
        code if inner.code is None else inner.code,
        (body.get("param") or place) if inner.param is None else inner.param,
        inner.original or (original if isinstance(original.get("message"), str) and not inner.message else None),
    )


def _folded(body: Json) -> Json:
    """With names of fields that do not depend on the writer's habits. Of two equal ones the first counts."""
    folded: Json = {}
    for name, value in body.items():
        folded.setdefault(name.replace("_", "").replace("-", "").lower(), value)
    return folded


def _nested(body: Json, depth: int) -> Iterator[_Found]:
    for key in (*NESTED, *MESSAGES):
        value = body.get(key)
        if isinstance(value, dict | list) or (isinstance(value, str) and _holds_an_error(value)):
            yield _read(value, depth + 1)
        elif key in NESTED and isinstance(value, str):
            yield _read_text(value, depth + 1)


def _own_message(body: Json, depth: int) -> str:
    texts = (body[key] for key in MESSAGES if isinstance(body.get(key), str) and body[key].strip())
    if text := next(texts, ""):
        return _read_text(text, depth + 1).message
    fields = ((name, _read(value, depth + 1).message) for name, value in body.items() if isinstance(value, list))
    return "; ".join(f"{name}: {message}" for name, message in fields if message)  # {"model": ["is required"]}


def _read_list(items: list[Any], depth: int) -> _Found:
    """Of several errors all messages, and the rest of the first."""
    found = [each for item in items[:20] if (each := _read(item, depth + 1)).message]
    if len(found) <= 1:
        return found[0] if found else _Found()
    message = "; ".join(
        dict.fromkeys(f"{each.param}: {each.message}" if each.param else each.message for each in found)
    )
    return found[0]._replace(message=message, original=None)


def _location(body: Json) -> str | None:
    """Of FastAPI's detail: ["body", "messages", 0] is messages.0."""
    loc = body.get("loc")
    if not isinstance(loc, list):
        return None
    return ".".join(str(part) for part in loc if part != "body") or None


def _read_text(text: str, depth: int) -> _Found:
    text = text.strip()[:MAX_TEXT_CHARS]
    if text.startswith(("{", "[", '"', "b'", 'b"')) and (value := _literal(text)) is not None:
        found = _read(value, depth + 1)
        return found if found.message or found.status else _Found("" if isinstance(value, dict | list) else text)
    if (quoted := QUOTED.search(text)) is not None:
        opening = next((at for at in range(quoted.end(), len(text)) if text[at] in "{["), -1)
        value = _literal(text[opening:]) if opening >= 0 else None
        found = _read(value, depth + 1)
        if found.message:
            return found._replace(status=int(quoted[1] or quoted[2]))
        return _Found(_for_people(text), int(quoted[1] or quoted[2]))
    return _Found(_for_people(text))


def _holds_an_error(text: str) -> bool:
    """Whether a message is, or ends with, a whole error in writing."""
    return text.lstrip().startswith(("{", "[")) or (QUOTED.search(text) is not None and "{" in text)


def _literal(text: str) -> object:
    """Of JSON or of Python's repr, which RunPod's SDK makes of an error. None if it is neither."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    try:
        value = ast.literal_eval(text)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _for_people(text: str) -> str:
    """The words of a page; the last line of a traceback; else the text as it is."""
    if PAGE.search(text):
        title = PAGE_TITLE.search(text)
        words = html.unescape(TAG.sub(" ", title[2] if title else text))
        return " ".join(words.split())[:MAX_PAGE_CHARS]
    raised = SDK_EXCEPTION.fullmatch(text)
    text = (raised[1] if raised else text).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback (") for line in lines):
        return lines[-1][:MAX_PAGE_CHARS]
    return text[:MAX_MESSAGE_CHARS]


def _openai(found: _Found) -> Json:
    if (original := found.original) is not None:
        own = {key: value for key, value in original.items() if (key, value) not in MARKS}
        return {**own, "message": original["message"][:MAX_MESSAGE_CHARS]}
    code = found.code if isinstance(found.code, str | int) else None
    parts = {"message": found.message, "type": found.type, "param": found.param, "code": code}
    return {key: value for key, value in parts.items() if value}


def _status(value: object) -> int:
    """HTTP's, of a number or a text with one; 0 if it is none."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) == 3 else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(value) if 400 <= value <= 599 and value == int(value) else 0


def _status_of_name(name: object) -> int:
    if not isinstance(name, str):
        return 0
    letters = re.sub(r"[^a-z]", "", re.split(r"[#.:/]", name[:100].lower())[-1])
    short = letters.removesuffix("error").removesuffix("exception")
    return STATUS_OF_NAME.get(letters) or STATUS_OF_NAME.get(short, 0)


def _status_of_words(message: str) -> int:
    if TOO_LONG.search(message):
        return 400
    if LOADING.search(message):
        return 503
    return 404 if NO_MODEL.search(message) else 0
