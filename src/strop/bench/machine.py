"""What a measurement was taken on: the machine, its peak, and the versions of the software."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import torch

from strop.bench import isa
from strop.bench.measure import now
from strop.ops import dispatch, native

_FMA_ITERATIONS = 5_000_000
_MM_SIZE = 1024
_COPIED = 32 * 2**20  # numbers: 128 MiB, more than caches hold
_BUSY = 0.5


@dataclass(frozen=True)
class Provenance:
    """Columns that every row of results carries."""

    date: str
    commit: str
    cpu: str
    cores: int
    threads: int
    python: str
    torch: str
    strop: str
    backend: str
    isa: str = ""
    """The instruction set of strop's kernels; empty where others run."""
    torch_isa: str = ""
    """That of torch and its libraries: see `isa.torchs`."""
    l1d_kb: int | None = None
    """Of the CPU's caches: data of one core; L2 of one core; L3 in all. None where that is unknown."""
    l2_kb: int | None = None
    l3_kb: int | None = None


def provenance(device: torch.device) -> Provenance:
    """Of a measurement taken now on `device`."""
    ran = backend(device)
    l1d, l2, l3 = cache_sizes()
    return Provenance(
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit(),
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        strop=_version(),
        backend=ran,
        isa=ran.removeprefix("native ") if ran.startswith("native ") else "",
        torch_isa=isa.torchs() if device.type == "cpu" else "",
        l1d_kb=l1d,
        l2_kb=l2,
        l3_kb=l3,
    )


def backend(device: torch.device) -> str:
    """The backend that runs fp32 on `device`, and its instruction set."""
    chosen = dispatch.select(torch.empty(0, dtype=torch.float32, device=device))
    return f"native {native.isa()}" if chosen == "native" else chosen


def load() -> float:
    """Programs that wanted to run over the last minute, on average; 0 where that is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def load_note(before: float) -> list[str]:
    """A warning, if the machine had other work before a measurement."""
    if before < _BUSY:
        return []
    return [
        f"Load average {before:.1f} before the run: other work may share this machine, repeat it when idle."
    ]


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cache_sizes(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[int | None, ...]:
    """KB of the L1 data cache, of L2 and of L3 that the first core sees; None where that is unknown."""
    found: dict[str, int] = {}
    for index in sorted(cpu.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.removesuffix("K").isdecimal():
            found[level] = int(size.removesuffix("K"))
    return found.get("1"), found.get("2"), found.get("3")


def commit() -> str:
    """The commit of the source that runs, with a `+` where files differ from it; empty if unknown."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", __file__):  # installed inside somebody else's repository
            return ""
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", git("rev-parse", "--show-toplevel")
        )
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version() -> str:
    try:
        return version("strop")
    except PackageNotFoundError:
        return ""


def peak_source() -> str:
    return "chains of fused multiply-adds" if native.missing is None else "torch.mm, a lower bound"


def peak_gflops(device: torch.device) -> float:
    """GFLOP/s that all threads reach together in fp32, measured now: chains of fused multiply-adds in
    registers where the native library is there, else (and on other devices) a large `torch.mm`."""
    if device.type == "cpu" and native.missing is None:
        return native.fma_peak(_FMA_ITERATIONS)
    a = torch.ones(_MM_SIZE, _MM_SIZE, device=device)
    start = perf_counter()
    torch.mm(a, a).sum().item()
    return 2 * _MM_SIZE**3 / (perf_counter() - start) / 1e9


def copy_gigabytes(device: torch.device) -> float:
    """GB/s that a large copy reads and writes, measured now."""
    source = torch.ones(_COPIED, device=device)
    target = source.clone()  # its pages are there before the clock starts
    start = now(device)
    target.copy_(source)
    return 2 * source.nbytes / (now(device) - start) / 1e9
