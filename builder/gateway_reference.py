"""Writes docs/gateway.schema.json and the end of docs/gateway.md from local_gateway/config/settings.py.

`make docs` runs it; tests/gateway/config/test_reference.py fails where it should have been run.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

from local_gateway.config import settings  # noqa: E402
from local_gateway.config.json_schema import schema  # noqa: E402

DOCUMENT = ROOT / "docs" / "gateway.md"
SCHEMA = ROOT / "docs" / "gateway.schema.json"
MARK = "<!-- From here on written by `make docs` from local_gateway/config/settings.py; change it there. -->\n"

DURATION = settings.Duration.__metadata__[0]  # type: ignore[attr-defined]  # an Annotated has it

# Every part of gateway.yaml, by its place.
SECTIONS: dict[str, type[settings.Part]] = {
    "gateway.yaml": settings.GatewaySettings,
    "models.NAME": settings.ModelSettings,
    "models.NAME.timeouts": settings.ModelTimeouts,
    "models.NAME.cold_start": settings.ColdStart,
    "models.NAME.cache": settings.CacheSettings,
    "models.NAME.targets[]": settings.TargetSettings,
    "models.NAME.targets[] of type openai": settings.OpenAITarget,
    "models.NAME.targets[] of type runpod_queue": settings.RunpodQueueTarget,
    "models.NAME.targets[] of type runpod_lb": settings.RunpodLbTarget,
    "models.NAME.targets[] of type local": settings.LocalTarget,
    "models.NAME.targets[].price": settings.Price,
    "models.NAME.targets[].breaker": settings.BreakerSettings,
    "server": settings.ServerSettings,
    "timeouts": settings.TimeoutSettings,
    "outbound": settings.OutboundSettings,
    "retry": settings.RetrySettings,
    "database": settings.DatabaseSettings,
    "log": settings.LogSettings,
}


# The tables


def document(text: str) -> str:
    """The document with its tables as they should be; what stands before the mark is written by hand."""
    by_hand, mark, _ = text.partition(MARK)
    assert mark, f"{DOCUMENT} has lost its mark"
    return (
        by_hand
        + mark
        + "\n## Every setting\n\nWhat is marked *(restart)* stays as it is in a running gateway.\n\n"
        + "\n".join(_section(*section) for section in SECTIONS.items())
    )


def _section(title: str, part: type[settings.Part]) -> str:
    rows = (f"| `{name}` | {_default(field)} | {_meaning(field)} |" for name, field in _own_fields(part))
    said = (part.__doc__ or "").strip()
    return "\n".join([f"### {title}\n", f"{said}\n", "| setting | default | |", "|---|---|---|", *rows, ""])


def _own_fields(part: type[settings.Part]) -> Iterator[tuple[str, FieldInfo]]:
    """Those that not all targets have in the same way."""
    common = settings.TargetSettings.model_fields if part is not settings.TargetSettings else {}
    for name, field in part.model_fields.items():
        is_common = name in common and common[name].default == field.default
        if not is_common and name != "type":
            yield name, field


def _meaning(field: FieldInfo) -> str:
    annotations = (field.annotation, *get_args(field.annotation))
    choices = [f"`{word}`" for one in annotations if get_origin(one) is Literal for word in get_args(one)]
    said = f"{field.description} One of {', '.join(choices)}." if choices else str(field.description)
    return f"{said} *(restart)*" if settings.FIXED in field.metadata else said


def _default(field: FieldInfo) -> str:
    """As the file would have it; nothing for what is empty."""
    if field.is_required():
        return "required"
    default = field.get_default()
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default in (None, "", ()) or field.default_factory:
        return ""
    if DURATION in field.metadata:
        return f"`{_spell_duration(default)}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _spell_duration(seconds: float) -> str:
    """In the largest unit that it is a whole number of."""
    units = sorted(settings.UNITS, key=lambda unit: settings.UNITS[unit], reverse=True)
    unit = next(unit for unit in units if seconds % settings.UNITS[unit] == 0 or unit == "ms")
    return f"{seconds / settings.UNITS[unit]:g}{unit}"


def main() -> None:
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
