"""The options of `strop report`: nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Options:
    """Compare training runs, finished or not, in a table and in a picture of their learning curves.

    Without any, those in the folder runs. Example:
    strop report runs/lm-small-nr-random runs/lm-small-nr-rh-st --over epoch

    Attributes:
        runs: Folders of runs, or folders that hold such folders. The first run is the baseline.
        plot: The picture of the learning curves. Of several tasks each gets one, with the task in its name.
        over: What the learning curves are drawn over.
    """

    runs: Positional[tuple[Path, ...]] = ()
    plot: Path = Path("curves.png")
    over: Literal["train_seconds", "epoch"] = "train_seconds"
