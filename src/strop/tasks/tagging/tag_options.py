"""The options of `strop tag`: nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path

from strop.data.schemes import Scheme


@dataclass(frozen=True)
class Options:
    """Label text from standard input with the entities that a trained tagger finds.

    Reads one sentence a line, its words parted by spaces, or, with --columns, one word a line and an empty
    line after each sentence. Writes a word a line with its tag behind it and an empty line after each
    sentence. With --columns all columns are kept, so tagged text can be evaluated at once:
    strop tag --run RUN --columns < test.txt | conlleval

    Attributes:
        run: Folder of a run of strop train ner, finished or not: the best weights so far are used.
        columns: Read one word a line, in the first of any number of columns.
        scheme: Of the tags that are written, if not that of the training data.
        device: Where to compute, e.g. cpu or cuda.
    """

    run: Path
    columns: bool = False
    scheme: Scheme | None = None
    device: str = "cpu"
