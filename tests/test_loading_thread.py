"""What a start does before the model's load begins, and what ends the thread that loads."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from handler.errors import ModelError
from handler.loading_thread import LOADING, LoadingThread
from handler.settings import Settings
from tests.tiny_models import Architecture

# Each takes longer to import than all that a load needs.
HEAVY = ("numpy", "requests", "jinja2", "openai", "starlette", "uvicorn", "llama_cpp.llama", "handler.engine.engine")
TIMEOUT = 30


def test_little_is_imported_before_the_load() -> None:
    """What comes before it delays the first text; the rest is imported beside it."""
    code = f"import sys, handler.__main__, handler.weights; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=TIMEOUT) == "[]\n"


def test_a_model_is_loaded(tiny_model_paths: Mapping[Architecture, Path]) -> None:
    """By settings that came after the thread began."""
    thread = LoadingThread()
    settings = Settings.from_env({"MODEL": str(tiny_model_paths["llama"]), "N_CTX": "256", "MAX_NUM_SEQS": "2"})
    loaded = thread.load(settings).result(TIMEOUT)
    assert loaded.runner.num_slots > 0  # type: ignore[union-attr]  # it generates
    loaded.runner.close()


def test_an_error_reaches_the_main_thread() -> None:
    """`load` returns, and what it returned raises."""
    loading = LoadingThread().load(Settings.from_env({"MODEL": "/absent.gguf"}))
    with pytest.raises(ModelError, match="no such file"):
        loading.result(TIMEOUT)


def test_without_settings_the_thread_ends() -> None:
    """As after a wrong setting."""
    thread = LoadingThread()
    thread.cancel()
    with pytest.raises(CancelledError):
        thread._model.result(TIMEOUT)
    for other in threading.enumerate():
        if other.name == LOADING:
            other.join(TIMEOUT)
            assert not other.is_alive()
