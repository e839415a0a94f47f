"""The options of `strop demo`: nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Train a small language model with three kinds of dropout side by side, and compare them.

    All three begin with the same weights, read the same text in the same order and have the same
    hyper-parameters. They take turns every few steps, so that whatever else the machine does slows all of
    them alike.

    Attributes:
        data: Folder with one file each with train, valid and test in its name, plain text or .gz.
            Without it: the English documentation that comes with Python.
        out: Folder of the report. The report of an earlier demo there is replaced.
        minutes: What all of it may take, at most. On a slow machine fewer epochs are trained.
        seed: Of the initial weights and of the dropout masks.
        threads: CPU threads. By default torch's choice, or one if that is faster on a busy machine.
    """

    data: Path | None = None
    out: Path = Path("runs/demo")
    minutes: float = 5.5
    seed: int = 0
    threads: int | None = None
