"""`python -m tests.runpod_emulator`"""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.runpod_emulator", "--port", "0", "--key", "secret"]


@pytest.mark.parametrize(("option", "path"), [("--worker-by-hand", "/v2/ep/openai"), ("--load-balancing", "/lb/ep")])
def test_says_how_to_use_it(option: str, path: str) -> None:
    """In lines for a shell; and ends when it is told to."""
    with subprocess.Popen([*COMMAND, option], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        url = re.search(r"base URL (http://127.0.0.1:\d+)(\S+)/v1, API key secret", first)
        assert url is not None, first
        health = requests.get(f"{url[1]}/v2/ep/health", headers={"Authorization": "Bearer secret"}, timeout=20)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert process.returncode == 0
    assert (url[2], health.status_code) == (path, 404 if "lb" in path else 200)
    assert ("RUNPOD_WEBHOOK_GET_JOB=" in rest) is (option == "--worker-by-hand")
