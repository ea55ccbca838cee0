"""The command line.

    python -m handler           in RunPod a worker; elsewhere runs test_input.json, or --test_input '{...}'
    python -m handler serve     the same over HTTP
    python -m handler fetch     finds or downloads the model and prints its path
    python -m handler parse     parses a model's raw text as a chat would; --help says more

Wiring only. A thread finds the devices while the settings are imported and read, and loads the model while everything
else is: so what is imported above `main` is what both need.
"""

# ruff: noqa: PLC0415  # imports stand where they overlap with the model's loading, not where they would delay it

import argparse
import contextlib
import gc
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from handler.cpu_quota import share_cores
from handler.errors import WorkerError
from handler.stopwatch import Stopwatch, process_started

if TYPE_CHECKING:
    from concurrent.futures import Future

    from handler.job import Handler
    from handler.loading import AnyModel
    from handler.loading_thread import LoadingThread
    from handler.settings import Settings
    from handler.worker import Worker

TEST_INPUT = Path("test_input.json")
COMMANDS = ("serve", "fetch")
LIBRARY_FOLDER = "LLAMA_CPP_LIB_PATH"  # llama_cpp's own variable
# Before these are imported, unless the user has set them: pydantic would look for plugins in the metadata of every
# package, and NumPy would start a thread for each core, which the worker has no use for.
IMPORT_LESS = {"PYDANTIC_DISABLE_PLUGINS": "__all__", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger("handler")


def main() -> int:
    """The exit status."""
    if sys.argv[1:2] == ["parse"]:  # reads no settings and needs no model
        from handler.chat.parse_command import run as parse

        return parse(sys.argv[2:])
    return _main()


def _main() -> int:
    start = Stopwatch(process_started())
    start.lap("interpreter")
    command, args = _parse_args(sys.argv[1:])
    share_cores(os.environ)
    for name, value in IMPORT_LESS.items():
        os.environ.setdefault(name, value)
    try:
        if command == "fetch":
            return _fetch(_settings(args))
        gc.disable()  # while everything is imported, which makes no garbage to speak of
        thread = _start_loading_thread()
        try:
            settings = _settings(args)
        except BaseException:
            thread.cancel()
            raise
        start.lap("settings")
        if command == "serve" or (settings.serve and args.test_input is None):
            return _serve(settings, thread, start)
        if settings.is_in_runpod or args.rp_serve_api:
            return _run_jobs(settings, thread, start)
        return _run_test(settings, thread, start, args.test_input)
    except WorkerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()


def _start_loading_thread() -> "LoadingThread":
    from handler.loading_thread import LoadingThread

    return LoadingThread(os.environ.get(LIBRARY_FOLDER, ""))


def _settings(args: argparse.Namespace) -> "Settings":
    """Of the process's environment. Options named like settings override it, under whichever name it has them.

    From here on there is a log.
    """
    from handler.settings import Settings, names_of

    options = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value}
    overridden = {key for name in options for key in names_of(name)}
    kept = {key: value for key, value in os.environ.items() if key not in overridden}
    settings = Settings.from_env({**kept, **{name.upper(): value for name, value in options.items()}})
    _configure_log(settings)
    return settings


def _configure_log(settings: "Settings") -> None:
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.INFO)  # below, it logs whole addresses: a query may be a signature


def _parse_args(argv: list[str]) -> tuple[str, argparse.Namespace]:
    """The SDK reads its own --rp_ options by itself."""
    parser = argparse.ArgumentParser(prog="python -m handler", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.description = __doc__
    parser.add_argument("--model", help="what MODEL may be")
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    if command == "serve":
        parser.add_argument("--host")
        parser.add_argument("--port")
    if command:
        return command, parser.parse_args(argv[1:])
    parser.add_argument("--test_input", help="a job as JSON, instead of test_input.json")
    parser.add_argument("--rp_serve_api", action="store_true", help="RunPod's local API server")
    return command, parser.parse_known_args(argv)[0]


def _fetch(settings: "Settings") -> int:
    from handler.models.locate import locate
    from handler.models.projector import locate_projector

    path = locate(settings)
    locate_projector(settings, path)
    sys.stdout.write(f"{path}\n")
    return 0


def _serve(settings: "Settings", thread: "LoadingThread", start: Stopwatch) -> int:
    loading = thread.load(settings)
    start.lap("begin")
    import asyncio

    from handler.assembly import start_worker
    from handler.http.serve import serve

    gc.enable()
    start.lap("imports")
    asyncio.run(serve(settings, loading, start_worker, start))
    return 0


def _run_jobs(settings: "Settings", thread: "LoadingThread", start: Stopwatch) -> int:
    """RunPod's loop, or its local API; returns when RunPod stops the worker."""
    loading = thread.load(settings)
    start.lap("begin")
    _prepare_runpod()
    import runpod.serverless

    from handler.health import check_fitness, replace_when_dead

    worker = _start_worker(settings, loading, start)
    open_jobs: set[str] = set()
    num_jobs = settings.num_concurrent_jobs(worker.engine.max_num_seqs)
    check_fitness(worker.engine)
    replace_when_dead(worker.engine, open_jobs)
    runpod.serverless.start(
        {
            "handler": _make_handler(settings, worker, open_jobs),
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _current: num_jobs,
        }
    )
    worker.engine.close()
    return 0


def _run_test(settings: "Settings", thread: "LoadingThread", start: Stopwatch, test_input: str | None) -> int:
    loading = thread.load(settings)
    start.lap("begin")
    import asyncio

    from handler.local import read_job, run_job

    job = read_job(test_input, TEST_INPUT)
    worker = _start_worker(settings, loading, start)
    try:
        return asyncio.run(run_job(_make_handler(settings, worker), job))
    finally:
        worker.engine.close()


def _start_worker(settings: "Settings", loading: "Future[AnyModel]", start: Stopwatch) -> "Worker":
    from handler.assembly import start_worker

    gc.enable()
    start.lap("imports")
    model = loading.result()
    start.lap("model")
    worker = start_worker(settings, model)
    start.lap("worker")
    log.info("ready after %s", start)
    return worker


def _make_handler(settings: "Settings", worker: "Worker", open_jobs: set[str] | None = None) -> "Handler":
    from handler.answer_check import checked
    from handler.job import make_handler

    handler = make_handler(worker.api, open_jobs)
    return checked(handler) if settings.check_answers else handler


def _prepare_runpod() -> None:
    """Before the SDK is imported: without its command line, which brings SSH. It asks for the processor's name then,
    which takes a second and serves its debugger alone."""
    from handler.deferred_package import defer
    from handler.settings import quiet_runpod, skip_runpod_checks

    quiet_runpod(os.environ)
    skip_runpod_checks(os.environ)
    defer("runpod", "runpod.cli", "runpod.cli.groups", "runpod.cli.groups.config")
    with contextlib.suppress(ImportError):
        import cpuinfo

        cpuinfo.get_cpu_info = dict  # it knows nothing, which the SDK expects on some machines


def _exit(exit_code: int) -> NoReturn:
    """A model that still loads would not outlive the destructors of llama.cpp: that ends in a segmentation fault."""
    from handler.loading_thread import LOADING

    if any(thread.name == LOADING for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    _exit(main())
