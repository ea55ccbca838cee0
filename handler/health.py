"""Whether this worker can do its work, told to RunPod through its SDK's fitness checks.

They run before the first job. When the engine dies later they run once more: now the check fails, so the SDK reports
the worker as unhealthy and ends the process. The platform replaces it, and gives the jobs it had to others.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable

from runpod.serverless.modules.rp_fitness import register_fitness_check, run_fitness_checks

from handler.embedding.embedder import Embedder
from handler.engine.engine import Engine
from handler.engine.sampling_params import SamplingParams

log = logging.getLogger(__name__)

CHECK_SECONDS = 120.0  # for one token
LOOK_SECONDS = 0.5  # between two looks at the engine
TELL_SECONDS = 30.0  # for the SDK to post what became of the jobs that ran


def check_fitness(engine: Engine | Embedder) -> None:
    """Register the check, to be run by `runpod.serverless.start`."""
    register_fitness_check(make_check(engine))


def make_check(engine: Engine | Embedder) -> Callable[[], Awaitable[None]]:
    async def model_answers() -> None:
        """Whether one token can be generated, or one vector computed. Its name is what RunPod shows."""
        try:
            await asyncio.wait_for(_try(engine), CHECK_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"The model gave no token within {CHECK_SECONDS:.0f} s.") from None

    return model_answers


async def _try(engine: Engine | Embedder) -> None:
    if isinstance(engine, Embedder):
        await engine.embed([await engine.tokenize("Hello")])
    else:
        await (await engine.generate(["Hello"], SamplingParams(temperature=0, max_tokens=1))).result()


def replace_when_dead(engine: Engine | Embedder, open_jobs: set[str]) -> None:
    """From now on, when the engine dies the process does too, with exit code 1."""
    threading.Thread(target=_watch, args=(engine, open_jobs), name="health", daemon=True).start()


def _watch(engine: Engine | Embedder, open_jobs: set[str]) -> None:
    while engine.is_healthy:
        time.sleep(LOOK_SECONDS)
    log.critical("The engine is dead: this worker ends when its %d open jobs have been told.", len(open_jobs))
    deadline = time.monotonic() + TELL_SECONDS
    while open_jobs and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS / 10)
    asyncio.run(run_fitness_checks())  # reports, and does not come back
    os._exit(1)
