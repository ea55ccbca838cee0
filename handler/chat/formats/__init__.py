"""How models write calls and reasoning: a family for each template, five shapes for all families."""

from handler.chat.formats.detection import FORMATS, find

__all__ = ["FORMATS", "find"]
