"""What an OpenAI client sees of seven kinds of RunPod workers, through the emulated platform and RunPod's real SDK.

gateway.md A1 to A10 in one table: status and text, the jobs that were begun for it, and the circuit breaker after it.
"""

import asyncio

import pytest

from tests.gateway.workers.common import NO_CUDA, OUT_OF_MEMORY, TOO_LONG
from tests.gateway.workers.table import CASES, KINDS, Sighting, scene

OWN_STATUS = {("ours", "worker_error"): 500, ("ours", "startup_error"): 503}  # the only worker that tells it
WORDS = {"client_error": TOO_LONG, "worker_error": OUT_OF_MEMORY, "startup_error": NO_CUDA, "nothing": "no answer"}
BEFORE_IT = ("", "The worker failed: ", "Input validation error: ", "Request failed during generation: ")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_kind_of_worker(kind: str) -> None:
    """Answers are whole; a fault of the client's costs one job, one of the worker's two; both keep their words."""
    async with scene(kind) as here:
        asking = [here.ask(case) for case in CASES] + [here.ask(case, is_stream=True) for case in WORDS]
        *plain, client, worker, startup, nothing = await asyncio.gather(*asking)
    seen = dict(zip(CASES, plain, strict=True))
    streamed = dict(zip(WORDS, (client, worker, startup, nothing), strict=True))

    assert seen["whole"] == seen["stream"] == Sighting(200, "hello", 1, "closed", 13)
    for case, words in WORDS.items():
        for sighting in (seen[case], streamed[case]):
            status = 400 if case == "client_error" else OWN_STATUS.get((kind, case), 502)
            # TGI's own types: `validation` is 422 where nothing else is said, `generation` is the server's fault.
            accepted = {status, 422} if case == "client_error" else {status, 500}
            assert sighting.status in accepted, sighting
            assert words in sighting.text
            assert (sighting.num_jobs, sighting.breaker) == (1 if case == "client_error" else 2, "closed")
