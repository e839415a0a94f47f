"""A training command where tyro is not installed, as on some machines with a GPU.

python benchmarks/options.py train lm --preset small --device cuda
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from plan import TABLES

from strop.cli import guarded

_MODULES = {table.command: table.module for table in TABLES}


def run(words: Sequence[str]) -> int:
    command = " ".join(words[:2])
    if command not in _MODULES:
        raise ValueError(f"{command}: one of {', '.join(_MODULES)} is needed")
    module: Any = import_module(_MODULES[command])
    return module.run(module.Options.from_words(words[2:]))


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:])))
