"""What numbers the commands take: checks that name the option, its value and what is allowed."""

import math
from dataclasses import fields
from typing import Any

import torch

#: Hypotheses side by side, at most: more would be looking at everything.
WIDEST_BEAM = 10_000
_WIDEST_LAYER = 100_000  # its recurrent weights take 160 GB
_MOST = {
    **dict.fromkeys(("units", "embedding", "input_size", "hidden_size"), _WIDEST_LAYER),
    **dict.fromkeys(("word_units", "char_units", "char_filters"), _WIDEST_LAYER),
    "seed": 2**63 - 1,  # what torch's generators take
    "threads": 1024,
    "layers": 1000,
    "beam": WIDEST_BEAM,
    "evaluations": 100_000,
}
_MOST_ELSE = 2**31 - 1
_LARGEST = 1e38  # a range of twice that is still one of float32


def check_sizes(settings: Any) -> None:
    """Refuses integers of a dataclass that are out of all proportion. Raises ValueError."""
    for field in fields(settings):
        value, most = getattr(settings, field.name), _MOST.get(field.name, _MOST_ELSE)
        if isinstance(value, int) and abs(value) > most:
            raise ValueError(f"{field.name}: {value}; at most {most:,} is possible")


def check_numbers(settings: Any) -> None:
    """As `check_sizes`; and refuses numbers of a dataclass that float32 cannot hold. Raises ValueError."""
    check_sizes(settings)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not abs(value) <= _LARGEST:
            raise ValueError(f"{field.name}: {value}; it must be a number of at most {_LARGEST:g}")


def check_duration(name: str, value: float) -> None:
    """Refuses seconds or minutes that are no time to wait. Raises ValueError."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: {value}; a finite time of at least 0 is needed")


def use_threads(threads: int | None) -> None:
    """Has torch use so many CPU threads, or as many as it likes. Raises ValueError."""
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads: {threads}; at least 1 is needed")
    if threads > (most := _MOST["threads"]):
        raise ValueError(f"threads: {threads}; at most {most:,} is possible")
    torch.set_num_threads(threads)
