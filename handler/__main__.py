"""The command line.

    python -m handler           in RunPod a worker; elsewhere runs test_input.json, or --test_input '{...}'
    python -m handler serve     the same over HTTP
    python -m handler fetch     finds or downloads the model and prints its path
    python -m handler parse     parses a model's raw text as a chat would; --help says more

Wiring only. The model loads in a thread while the packages that take a second to import are imported.
"""

# ruff: noqa: PLC0415  # imports stand where they overlap with the model's loading, not where they would delay it

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from handler.cpu_quota import share_cores
from handler.errors import WorkerError
from handler.settings import Settings, names_of, quiet_runpod
from handler.stopwatch import Stopwatch, process_started

if TYPE_CHECKING:
    from handler.job import Handler
    from handler.loading import AnyModel
    from handler.worker import Worker

TEST_INPUT = Path("test_input.json")
COMMANDS = ("serve", "fetch")
QUICK_SWITCH = 0.0001  # seconds
LOADING = "loading"  # name of the thread that loads the model

log = logging.getLogger("handler")


def main() -> int:
    """The exit status."""
    if sys.argv[1:2] == ["parse"]:  # reads no settings and needs no model
        from handler.chat.parse_command import run as parse

        return parse(sys.argv[2:])
    return _main()


def _main() -> int:
    try:
        command, args = _parse_args(sys.argv[1:])
        settings = Settings.from_env(_environment(args))
        _configure_log(settings)
        share_cores(os.environ)
        start = Stopwatch(process_started())
        start.lap("interpreter")
        if command == "fetch":
            return _fetch(settings)
        if command == "serve" or (settings.serve and args.test_input is None):
            return _serve(settings, start)
        if settings.is_in_runpod or args.rp_serve_api:
            return _run_jobs(settings, start)
        return _run_test(settings, start, args.test_input)
    except WorkerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _configure_log(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.INFO)  # below, it logs whole addresses: a query may be a signature


def _environment(args: argparse.Namespace) -> dict[str, str]:
    """The process's environment. Options named like settings override it, under whichever name it has them."""
    options = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value}
    overridden = {key for name in options for key in names_of(name)}
    kept = {key: value for key, value in os.environ.items() if key not in overridden}
    return {**kept, **{name.upper(): value for name, value in options.items()}}


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


def _fetch(settings: Settings) -> int:
    from handler.models.locate import locate

    sys.stdout.write(f"{locate(settings)}\n")
    return 0


def _serve(settings: Settings, start: Stopwatch) -> int:
    loading = _start_loading(settings)
    from handler.assembly import start_worker
    from handler.http.serve import serve

    start.lap("imports")
    asyncio.run(serve(settings, loading, start_worker, start))
    return 0


def _run_jobs(settings: Settings, start: Stopwatch) -> int:
    """RunPod's loop, or its local API; returns when RunPod stops the worker."""
    loading = _start_loading(settings)
    quiet_runpod(os.environ)
    _skip_cpu_info()
    import runpod

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


def _run_test(settings: Settings, start: Stopwatch, test_input: str | None) -> int:
    loading = _start_loading(settings)
    from handler.local import read_job, run_job

    job = read_job(test_input, TEST_INPUT)
    worker = _start_worker(settings, loading, start)
    try:
        return asyncio.run(run_job(_make_handler(settings, worker), job))
    finally:
        worker.engine.close()


def _start_worker(settings: Settings, loading: "Future[AnyModel]", start: Stopwatch) -> "Worker":
    from handler.assembly import start_worker

    start.lap("imports")
    model = loading.result()
    start.lap("model")
    worker = start_worker(settings, model)
    start.lap("worker")
    log.info("ready after %s", start)
    return worker


def _make_handler(settings: Settings, worker: "Worker", open_jobs: set[str] | None = None) -> "Handler":
    from handler.answer_check import checked
    from handler.job import make_handler

    handler = make_handler(worker.api, open_jobs)
    return checked(handler) if settings.check_answers else handler


def _skip_cpu_info() -> None:
    """The SDK asks for the processor's name when it is imported: a second, for its debugger alone."""
    with contextlib.suppress(ImportError):
        import cpuinfo

        cpuinfo.get_cpu_info = dict  # it knows nothing, which the SDK expects on some machines


def _start_loading(settings: Settings) -> "Future[AnyModel]":
    """In a daemon thread, so that stopping the worker does not wait for a download."""
    loading: Future[AnyModel] = Future()

    def load() -> None:
        try:
            from handler.loading import load_any_model

            with _quick_switches():
                loading.set_result(load_any_model(settings))
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=load, name=LOADING, daemon=True).start()
    return loading


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """llama.cpp calls back for each tensor and each line of its log while it loads, a thousand times. Each may wait for
    a thread that imports, 5 ms by default."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(QUICK_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _exit(exit_code: int) -> NoReturn:
    """A model that still loads would not outlive the destructors of llama.cpp: that ends in a segmentation fault."""
    if any(thread.name == LOADING for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    _exit(main())
