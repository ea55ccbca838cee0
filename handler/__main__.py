"""The command line.

    python -m handler           in RunPod a worker; elsewhere runs test_input.json, or --test_input '{...}'
    python -m handler serve     the same over HTTP
    python -m handler fetch     finds or downloads the model and prints its path

Wiring only. The model loads in a thread while the packages that take a second to import are imported.
"""

# ruff: noqa: PLC0415  # imports stand where they overlap with the model's loading, not where they would delay it

import argparse
import asyncio
import logging
import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from handler.errors import WorkerError
from handler.settings import Settings, quiet_runpod

if TYPE_CHECKING:
    from handler.engine.model_runner import ModelRunner

TEST_INPUT = Path("test_input.json")
COMMANDS = ("serve", "fetch")


def main() -> int:
    try:
        command, args = _parse_args(sys.argv[1:])
        options = {name.upper(): value for name, value in vars(args).items() if name in Settings.model_fields and value}
        settings = Settings.from_env({**os.environ, **options})
        logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if command == "fetch":
            return _fetch(settings)
        if command == "serve":
            return _serve(settings)
        if settings.is_in_runpod or args.rp_serve_api:
            return _run_jobs(settings)
        return _run_test(settings, args.test_input)
    except WorkerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parse_args(argv: list[str]) -> tuple[str, argparse.Namespace]:
    """Options named like settings override the environment. The SDK reads its own --rp_ options by itself."""
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


def _serve(settings: Settings) -> int:
    loading = _start_loading(settings)
    from handler.serve import serve

    asyncio.run(serve(settings, loading))
    return 0


def _run_jobs(settings: Settings) -> int:
    """RunPod's loop, or its local API; returns when RunPod stops the worker."""
    loading = _start_loading(settings)
    quiet_runpod(os.environ)
    import runpod

    from handler.job import make_handler
    from handler.worker import start_worker

    worker = start_worker(settings, loading.result())
    runpod.serverless.start(
        {
            "handler": make_handler(worker.api),
            "return_aggregate_stream": True,
            "concurrency_modifier": lambda _current: settings.num_concurrent_jobs,
        }
    )
    worker.engine.close()
    return 0


def _run_test(settings: Settings, test_input: str | None) -> int:
    loading = _start_loading(settings)
    from handler.job import make_handler
    from handler.local import read_job, run_job
    from handler.worker import start_worker

    job = read_job(test_input, TEST_INPUT)
    worker = start_worker(settings, loading.result())
    exit_code = asyncio.run(run_job(make_handler(worker.api), job))
    worker.engine.close()
    return exit_code


def _start_loading(settings: Settings) -> "Future[ModelRunner]":
    """A daemon thread, so that nobody who stops the worker waits for a download."""
    loading: Future[ModelRunner] = Future()

    def load() -> None:
        try:
            from handler.loading import load_model

            loading.set_result(load_model(settings))
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=load, name="loading", daemon=True).start()
    return loading


if __name__ == "__main__":
    sys.exit(main())
