"""What a measurement was made on and with: without it, its figures mean nothing."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from handler.cpu_quota import num_usable_cores

CPU_INFO = Path("/proc/cpuinfo")
NOT_A_PACKAGE = "of unknown version"


class Circumstances(NamedTuple):
    date: str
    machine: str
    model: str
    llama_cpp_python: str
    python: str
    busy: str  # what else the machine did when it began

    def __str__(self) -> str:
        return (
            f"{self.model}\n{self.machine}\n"
            f"{self.date}, llama-cpp-python {self.llama_cpp_python}, Python {self.python}; {self.busy}\n"
        )


def circumstances(model: Path, threads: int) -> Circumstances:
    return Circumstances(
        datetime.now().astimezone().isoformat(" ", "minutes"),
        ", ".join([*_gpus(), f"{threads} threads on {num_usable_cores()} cores of {_cpu()}", platform.system()]),
        f"{model.name}, {model.stat().st_size / 1e6:,.0f} MB",
        _version("llama-cpp-python"),
        platform.python_version(),
        f"a load of {os.getloadavg()[0]:.1f} before",
    )


def _cpu() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """NVIDIA's, by their names; whether a program uses them is its own affair."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = answer.stdout.strip().splitlines() if answer.returncode == 0 else ["nvidia-smi fails"]
    return [*names, *([f"of which CUDA sees {visible}"] if visible is not None else [])]


def _version(package: str) -> str:
    """A llama_cpp that lies in PYTHONPATH by itself has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_A_PACKAGE
