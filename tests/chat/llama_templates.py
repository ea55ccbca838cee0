"""The chat templates in llama.cpp's repository, `models/templates`: 70 that models ship, with their tool formats.

They are their models' own, so they are not kept here: they come out of the source of llama-cpp-python, which vendors
llama.cpp, once per machine.
"""

import subprocess
import sys
import tarfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from handler.settings import Settings

NUM_TEMPLATES = 70
MAX_DOWNLOAD_SECONDS = 300


@cache
def llama_templates() -> dict[str, str]:
    """Sources by file name, without the extension. Skips the test that asks where PyPI cannot be reached."""
    release = version("llama-cpp-python")
    folder = Settings.from_env({}).models_dir.expanduser() / f"chat-templates-{release}"
    if not folder.exists():
        _download(release, folder)
    templates = {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
    assert len(templates) == NUM_TEMPLATES
    return templates


def _download(release: str, folder: Path) -> None:
    """From PyPI, as pip is set up here."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        source = ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={release}", "--dest", temporary]
        try:
            subprocess.run([*pip, *source], check=True, capture_output=True, timeout=MAX_DOWNLOAD_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"the source of llama-cpp-python {release} cannot be downloaded: {error}")
        (archive,) = Path(temporary).glob("*.tar.gz")
        partial = Path(temporary) / "templates"
        partial.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                    content = tar.extractfile(member)
                    assert content
                    (partial / Path(member.name).name).write_bytes(content.read())
        partial.rename(folder)
