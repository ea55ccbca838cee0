"""Which model files were found to load, so that each is tried out once: marks in the directory of models.

A mark names a file by path, size and time of change, and the version of what tried it; knows nothing of how.
"""

import logging
from hashlib import sha256
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = ".checked"
MAX_MARKS = 64  # the newest are kept


def mark_of(file: Path, models_dir: Path, version: str) -> Path:
    """Where the mark of this file, as it is now, lies or would lie. Raises OSError if the file is not there."""
    stat = file.stat()
    identity = f"{file.resolve()} {stat.st_size} {int(stat.st_mtime)} {version}"  # whole seconds, as images keep them
    return models_dir.expanduser() / FOLDER / sha256(identity.encode()).hexdigest()[:32]


def note(mark: Path) -> None:
    """Leave the mark. Where that fails, the file is tried out again at the next start."""
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        marks = sorted(mark.parent.iterdir(), key=lambda other: other.stat().st_mtime)
        for old in marks[:-MAX_MARKS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        log.debug("no mark for a checked model: %s", error.strerror)
