"""`${NAME}` in the text of a setting. Knows neither YAML nor settings."""

import re
from collections.abc import Mapping

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
REFERENCE = re.compile(rf"\$\$|\$\{{(?P<name>{NAME})(?::-(?P<default>[^${{}}]*))?\}}|\$\{{")
BARE_NAME = re.compile(r"\$([A-Z_][A-Z0-9_]*)")


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """The text with `${NAME}`, `${NAME:-default}` and `$$` replaced; any other `$` stays.

    A variable that is empty counts as unset. Raises ValueError with a reason that tells names, never text or values.
    """
    if bare := BARE_NAME.fullmatch(text):
        raise ValueError(f"write ${{{bare[1]}}} for the variable, or $${bare[1]} for this very text")

    def value_of(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match["name"], match["default"]
        if not name:
            raise ValueError(
                "after ${ must come NAME} or NAME:-default}, without $, { and } inside; $${ is the text ${"
            )
        if not environ.get(name) and default is None:
            raise ValueError(f"the environment variable {name} is not set; ${{{name}:-...}} would give it a default")
        return environ.get(name) or default or ""

    return REFERENCE.sub(value_of, text)
