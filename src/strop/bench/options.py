"""The options that all commands that measure share: nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from strop.bench import isa
from strop.bench.isa import Isa


@dataclass(frozen=True)
class CommonOptions:
    seconds: float = 20.0
    """How long to measure, roughly; at least 5 rounds are run."""

    device: str = "cpu"
    """Where to run: cpu, cuda, …"""

    threads: int | None = None
    """Threads for both sides; torch's own choice if not given."""

    json: Path | None = None
    """Also write the records to this file."""

    csv: Path | None = None
    """Also append rows, with machine and versions, to this file."""

    isa: Isa | None = None
    """Limit both sides to an older instruction set: strop's kernels, and torch with oneDNN and MKL."""

    @property
    def environment(self) -> dict[str, str]:
        """What the process has to be started with."""
        return {} if self.isa is None else isa.limits(self.isa)
