"""The image, as far as it can be checked without building it: docs/deploy.md says how it is built."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import Architecture

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split("\n")
STAGES = dict(
    zip(
        re.findall(r"^FROM .* AS (\w+)", DOCKERFILE, re.M),
        re.split(r"^FROM .*", DOCKERFILE, flags=re.M)[1:],
        strict=True,
    )
)


def copied(stage: str) -> list[list[str]]:
    """The arguments of each COPY from the context."""
    return [line.split() for line in re.findall(r"^COPY (?!--from)(.*)$", STAGES[stage], re.MULTILINE)]


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_copied_is_there(stage: str) -> None:
    """And is sent to the build."""
    for *sources, _ in copied(stage):
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in IGNORED, source


def test_bases_have_exact_tags() -> None:
    """No tag that moves."""
    for name, base in re.findall(r"^ARG (\w*BASE)=(.*)$", DOCKERFILE, re.MULTILINE):
        assert re.fullmatch(r"nvidia/cuda:\$\{CUDA_VERSION\}-\w+-ubuntu24\.04", base), name
    assert re.search(r"^ARG CUDA_VERSION=\d+\.\d+\.\d+$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^CPU_BASE := debian:\d+\.\d+-slim$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_worker_gets_the_signals() -> None:
    """A shell in between would keep SIGTERM to itself."""
    assert re.search(r'^ENTRYPOINT \["tini", "--", "python", "-m", "handler"\]$', STAGES["run"], re.MULTILINE)


def test_token_is_only_a_secret() -> None:
    """A build argument, a variable or a file of the build would be kept in a layer."""
    assert "HF_TOKEN" not in DOCKERFILE
    assert "--mount=type=secret,id=hf_token" in STAGES["model"]


def test_bake_brings_the_model(tmp_path: Path, tiny_model_paths: dict[Architecture, Path]) -> None:
    """With no more of the handler than that stage copies."""
    model = next(iter(tiny_model_paths.values()))
    for *sources, target in copied("model"):
        for source in sources:
            copy = tmp_path / target / (Path(source).name if target.endswith("/") else "")
            copy.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, copy)
    environ = {"MODEL": str(model), "PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-m", "handler", "fetch"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stdout == f"{model}\n", result.stderr


def run_llama_wheel(folder: Path, variant: str = "cpu", **environ: str) -> subprocess.CompletedProcess[str]:
    """The script in a copy of what it needs, with a `pip` that says how it was called."""
    shutil.copytree(ROOT / "builder", folder / "builder", ignore=shutil.ignore_patterns("*.whl"))
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$CMAKE_ARGS"\necho "$@"\n')
    python.chmod(0o755)
    return subprocess.run(
        [folder / "builder" / "llama_wheel.sh", variant, folder / "wheels"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python), **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_wheel_is_compiled_for_every_cpu(tmp_path: Path) -> None:
    result = run_llama_wheel(tmp_path)

    assert result.returncode == 0
    assert "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON" in result.stdout
    assert "CUDA" not in result.stdout


def test_wheel_is_compiled_for_every_gpu(tmp_path: Path) -> None:
    """That RunPod rents."""
    result = run_llama_wheel(tmp_path, "cuda")
    (architectures,) = re.findall(r"-DCMAKE_CUDA_ARCHITECTURES=(\S+)", result.stdout)

    assert "-DGGML_CUDA=ON" in result.stdout
    assert re.findall(r"\d+", architectures) == ["75", "80", "86", "89", "90", "120"]


def test_wheel_may_be_one_that_was_made(tmp_path: Path) -> None:
    """By name, or by address with its checksum."""
    address = "https://example.org/llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"

    assert "there is no builder/wheels/other.whl" in run_llama_wheel(tmp_path / "1", LLAMA_WHEEL="other.whl").stderr
    assert "give LLAMA_WHEEL_SHA256" in run_llama_wheel(tmp_path / "2", LLAMA_WHEEL=address).stderr
    result = run_llama_wheel(tmp_path / "3", LLAMA_WHEEL=address, LLAMA_WHEEL_SHA256="0" * 64)
    assert "download --no-cache-dir --no-deps --require-hashes" in result.stdout


def test_unknown_variant_is_refused(tmp_path: Path) -> None:
    assert "must be cpu or cuda, not 'rocm'" in run_llama_wheel(tmp_path, "rocm").stderr


def test_slim_removes_only_what_is_installed() -> None:
    """A name that no longer is would be a package that is not looked at any more."""
    (listed,) = re.findall(r"^unused=\((.*?)^\)", (ROOT / "builder/slim.sh").read_text(), re.MULTILINE | re.DOTALL)
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/worker.txt").read_text(), re.MULTILINE))

    assert set(re.sub(r"#.*", "", listed).split()) <= pinned
