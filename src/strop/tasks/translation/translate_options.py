"""The options of `strop translate`: nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Translate the sentences on stdin, one per line, with a model that strop train nmt has trained.

    They must be prepared as the training text was: words parted by white space, lower case if that was.
    An empty line stays empty. Example:
    strop translate --run runs/nmt-multi30k-nr-rh-st < sentences.en > sentences.de

    Attributes:
        run: Folder of the run; its best weights are used.
        beam: Hypotheses side by side; 1 is greedy search.
        alpha: Hypotheses are compared by log-probability / words ** alpha: less favours short ones. It may be
            from 0 to 10.
        batch: Sentences side by side.
        device: Where to translate, e.g. cpu or cuda.
        threads: CPU threads, if not torch's choice.
    """

    run: Path
    beam: int = 5
    alpha: float = 1.0
    batch: int = 64
    device: str = "cpu"
    threads: int | None = None
