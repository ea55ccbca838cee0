"""How the checks call programs, and where the files are."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in the repository's root; its output is in the result, whatever its exit status."""
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def output_of(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """What a program printed. Fails the test with its messages if the exit status is not 0."""
    result = run(*command, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def kustomize(folder: str) -> list[dict[str, Any]]:
    """The objects that a kustomization makes."""
    return list(yaml.safe_load_all(output_of("kubectl", "kustomize", folder)))
