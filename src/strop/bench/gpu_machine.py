"""Which GPU a measurement was taken on, and the versions of the software."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from strop.bench.machine import commit, cpu_model


@dataclass(frozen=True)
class Gpu:
    """Columns that every row of results carries."""

    date: str
    commit: str
    device: str
    capability: str
    processors: int
    memory_gib: float
    driver: str
    cuda: str
    cudnn: str
    torch: str
    triton: str
    python: str

    def line(self) -> str:
        """For people."""
        return (
            f"{self.device}, {self.processors} processors, {self.memory_gib:.0f} GiB, driver {self.driver}, "
            f"CUDA {self.cuda}, cuDNN {self.cudnn}, torch {self.torch}, Triton {self.triton}"
        )


def describe(device: torch.device) -> Gpu:
    """Of ``device``; in Triton's interpreter, of the CPU that runs it."""
    name, capability, processors, memory, driver = cpu_model() + " (interpreter)", "", 0, 0.0, ""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        name, processors, memory = found.name, found.multi_processor_count, found.total_memory / 2**30
        capability, driver = f"{found.major}.{found.minor}", _driver()
    return Gpu(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit(),
        device=name,
        capability=capability,
        processors=processors,
        memory_gib=memory,
        driver=driver,
        cuda=torch.version.cuda or "",
        cudnn=str(torch.backends.cudnn.version() or ""),
        torch=torch.__version__,
        triton=_version("triton"),
        python=platform.python_version(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _driver() -> str:
    """The driver's version, if its tool is there to tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return (said.splitlines() or [""])[0].strip()
