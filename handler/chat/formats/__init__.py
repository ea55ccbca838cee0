"""How models write calls and reasoning: a family for each template, five shapes for all families."""

from handler.chat.formats.families import FAMILIES, GENERIC
from handler.chat.formats.format import Format

FORMATS = {format.name: format for format in (*(family.format for family in FAMILIES), GENERIC)}


def find(source: str) -> Format:
    """The format of the models that a template is written for: the first whose signs its source bears."""
    for family in FAMILIES:
        has_signs = family.signs and all(sign in source for sign in family.signs)
        if has_signs and not any(sign in source for sign in family.absent):
            return family.format
    return GENERIC
