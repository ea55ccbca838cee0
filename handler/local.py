"""A job run on this machine, as RunPod documents it for test_input.json.

The SDK's own local run calls an async generator function and never iterates what it returns, so it says "completed"
with no line of the handler executed. This one executes it, and prints what a client would get.
"""

import json
import sys
from pathlib import Path

from handler.api import sse
from handler.errors import ConfigError
from handler.job import Handler
from handler.job_run import Job


def read_job(test_input: str | None, path: Path) -> Job:
    """The job given on the command line, else in the file. Raises ConfigError."""
    try:
        job = json.loads(test_input if test_input is not None else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"There is no job to run: {error.strerror}: {path}, and no --test_input.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The test job is not JSON: {error}.") from error
    if not isinstance(job, dict) or job.get("input") is None:
        raise ConfigError('The test job must be a JSON object with an "input".')
    return {"id": "local_test", **job}


async def run_job(handler: Handler, job: Job) -> int:
    """Print the job's output; 1 if it is an error, else 0."""
    exit_code = 0
    async for output in handler(job):
        if isinstance(output, str):
            sys.stdout.write(output)
            exit_code |= sse.is_error(output)
        elif "error" in output:
            sys.stdout.write(output["error"] + "\n")
            exit_code = 1
        else:
            sys.stdout.write(json.dumps(output, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    return exit_code
