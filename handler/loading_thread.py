"""The thread that loads the model while the rest of the worker is imported."""

# ruff: noqa: PLC0415  # what the thread needs is imported there, in the order in which it is needed

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.loading import AnyModel
    from handler.settings import Settings

LOADING = "loading"  # name of threads that load a model: the process does not wait for them to end
QUICK_SWITCH = 0.0001  # seconds


class LoadingThread:
    """Finds the devices from its beginning, which needs no setting, and loads the model once it is told the settings.

    Two daemons, so that stopping the worker does not wait for a download. Used by the main thread.
    """

    def __init__(self, library_folder: str = "") -> None:
        """`library_folder` has llama.cpp's library, where it is not llama_cpp's own."""
        self._library_folder = library_folder
        self._settings: Future[Settings] = Future()
        self._model: Future[AnyModel] = Future()
        self._waits = threading.Event()
        self._is_mapped = threading.Event()
        for target in (self._find_devices, self._run):
            threading.Thread(target=target, name=LOADING, daemon=True).start()

    def load(self, settings: "Settings") -> "Future[AnyModel]":
        """The model, or why it cannot be loaded. Returns once the thread needs the GIL no more, so that imports do not
        delay the load."""
        self._settings.set_result(settings)
        self._waits.wait()
        return self._model

    def cancel(self) -> None:
        """There are no settings to load by; without effect once there were."""
        self._settings.cancel()

    def _find_devices(self) -> None:
        """In a thread of its own: meanwhile the file is found, and tried by a child. Loading waits for the end of this
        and reports what failed."""
        with contextlib.suppress(Exception):  # the same import and the same call, in loading, raise the same
            try:
                from handler.engine.llama.mapping import map_library

                map_library(self._library_folder)
            finally:
                self._is_mapped.set()
            from handler.engine.llama.backend import start_llama

            start_llama()

    def _run(self) -> None:
        try:
            with _quick_switches():
                self._load()
        except BaseException as error:
            self._model.set_exception(error)
        finally:
            self._waits.set()

    def _load(self) -> None:
        self._is_mapped.wait()  # to import the library before would map it with the GIL
        from handler.weights import load_weights

        settings = self._settings.result()
        weights = load_weights(settings, self._waits.set)
        from handler.loading import open_model

        self._model.set_result(open_model(weights, settings))


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """llama.cpp calls back while it loads, a hundred times and more. Each may wait for a thread that imports, 5 ms by
    default."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(QUICK_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
