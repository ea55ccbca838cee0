"""Logging: one line of JSON, or of text on a terminal, for each thing that happened.

No line holds a prompt, an answer or a secret: prompts are never given to a logger, and secrets are taken out of what
the lines would be, by their values and by their looks, wherever they come from.
"""

import json
import logging
import sys
from contextvars import ContextVar
from dataclasses import fields
from datetime import UTC, datetime
from typing import TextIO

import orjson

from local_gateway.accounts.usage import UsageRecord
from local_gateway.config.redactor import Redactor
from local_gateway.config.settings import LogSettings

request_id_var: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this task works on

STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}  # a terminal would obey them
TRACE_CONTROLS = {code: text for code, text in CONTROLS.items() if chr(code) not in "\t\n"}
REQUESTS = logging.getLogger("local_gateway.requests")
SHOWN = tuple(field.name for field in fields(UsageRecord) if field.name not in ("id", "time"))


def setup(settings: LogSettings, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Let all loggers write to `stream`, stderr if None, and to nothing else. May be repeated."""
    # No line says which thread or line of code it is from, and finding out takes longer than writing it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as the documentation of logging has it
    stream = stream or sys.stderr
    is_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(redactor) if is_text else JsonFormatter(redactor))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level)


def log_request(record: UsageRecord) -> None:
    """One line for a request that ended."""
    level = logging.WARNING if record.outcome == "target_error" else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    fields = {name: value for name in SHOWN if _is_known(value := getattr(record, name))}
    REQUESTS.log(
        level,
        "%s %d %s in %.3f s, %d+%d tokens, model %s, target %s",
        record.path,
        record.status,
        record.outcome,
        record.total_seconds,
        record.num_prompt_tokens,
        record.num_completion_tokens,
        record.alias or "-",
        record.target or "-",
        extra=fields,
    )


def _is_known(value: object) -> bool:
    """A count of 0 is."""
    return value is not None and value is not False and value != ""


class JsonFormatter(logging.Formatter):
    """One object on one line: time, level, logger, message, request_id, then what was given as `extra`."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := request_id_var.get():
            fields["request_id"] = request_id
        fields |= _extra(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self._redactor(_dump(fields))


class TextFormatter(logging.Formatter):
    """Time, level, message; for people. What else is known is in the message."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        message = record.getMessage().translate(CONTROLS)
        line = f"{time} {record.levelname:<7} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info).translate(TRACE_CONTROLS)
        return self._redactor(line)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


def _dump(fields: dict[str, object]) -> str:
    try:
        return orjson.dumps(fields, default=str).decode()
    except orjson.JSONEncodeError:  # half a character, which clients may send
        return json.dumps(fields, default=str)
