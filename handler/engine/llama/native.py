"""The worker's own C, which builder/native.sh compiles: draw.c, callbacks.c and vocabulary.c in one library."""

import ctypes
from pathlib import Path
from typing import Any

from handler.errors import ModelError

LIBRARY = Path(__file__).with_name("libdraw.so")


def _load() -> Any:
    library = ctypes.CDLL(str(LIBRARY)) if LIBRARY.exists() else None
    return (
        library if hasattr(library, "progress_with_pauses") else None
    )  # the latest function: older ones are not enough


native: Any = _load()  # None where it was not compiled, for what can do without


def require_native() -> Any:
    """The library. Raises ModelError where it was not compiled, or of older sources."""
    if native is None:
        raise ModelError(f"{LIBRARY.name} was not compiled: builder/native.sh does that.")
    return native
