"""What numbers the commands take: checks that name the option, its value and what is allowed."""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def check_ranges(
    settings: Any,
    *,
    shares: Collection[str],
    positive: Collection[str] = ("rate", "decay", "clip"),
    least: Mapping[str, int] | None = None,
) -> None:
    """As `check_sizes`; and refuses numbers of a dataclass out of their range. Raises ValueError.

    Args:
        shares: fields in [0, 1).
        positive: fields that are more than 0.
        least: of other fields, where that is not 1 of an integer and 0 of a float.
    """
    check_sizes(settings)
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if not isinstance(value, int | float):
            continue
        if name in shares and not 0 <= value < 1:
            raise ValueError(f"{name}: {value}; it must be in [0, 1)")
        lowest = (least or {}).get(name, 1 if field.type is int else 0)
        if not abs(value) <= _LARGEST:
            raise ValueError(f"{name}: {value}; it must be a number from {lowest} to {_LARGEST:g}")
        if not value >= lowest:
            raise ValueError(f"{name}: {value}; it must be at least {lowest}")
        if name in positive and not value > 0:
            raise ValueError(f"{name}: {value}; it must be more than 0")


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
    import torch

    torch.set_num_threads(threads)


def find_device(name: str) -> "torch.device":
    """The device of that name; of several processes each gets its own GPU. Raises ValueError."""
    import torch

    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros(1, device=device).item()  # it computes: `meta` does not
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is one
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device: {name!r} cannot be used here ({reason}); cpu always can") from error
    return device
