"""The OpenAPI document of what the gateway serves, which is openapi.json beside this file.

It is exact about what the gateway itself checks and says: paths, statuses, errors, the name of a model. About the rest
of a request it only describes, because what a field may be is the target's to say, and unknown ones pass through.
"""

import json
from importlib.resources import files
from typing import Any

DOCUMENT: dict[str, Any] = json.loads(files(__package__).joinpath("openapi.json").read_text(encoding="utf-8"))
VERSION: str = DOCUMENT["info"]["version"]  # as in pyproject.toml, which is not at hand where the gateway runs
