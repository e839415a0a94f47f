"""What `strop.bench gpu` measures: precisions, presets and a sweep, the most important first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from strop.bench.presets import LAYER_PRESETS, Layers, Preset

PRECISIONS: dict[str, tuple[torch.dtype, str]] = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
    "fp16": (torch.float16, "ieee"),
}
CUDNN = "cudnn"
OURS = ("nr-st", "nr-rh-st")
_MEASURED = ("fp16", "bf16", "tf32", "fp32")
_FIRST = ("nmt-luong", "zaremba-medium", "zaremba-large")  # a run that is cut off has these at least
_ROUNDS = 5  # at least
_SECONDS, _SWEEP_SECONDS = 2.0, 0.5


@dataclass(frozen=True)
class Point:
    stage: str
    preset: Preset
    precision: str
    impls: tuple[str, ...]
    seconds: float
    rounds: int = _ROUNDS
    """At least."""


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """Sets how float32 is multiplied, for torch's products, cuDNN and strop alike."""
    dtype, float32 = PRECISIONS[name]
    owners = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [owner.fp32_precision for owner in owners]
    for owner in owners:
        owner.fp32_precision = float32  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield dtype
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.fp32_precision = value  # pyright: ignore[reportAttributeAccessIssue]


def points(tiny: bool, precisions: Sequence[str]) -> list[Point]:
    """What to measure, the most important first."""
    if tiny:
        small = Preset("tiny", (Layers(5, 7), Layers(7, 6)), batch=3, steps=2, nr=0.5, rh=0.5)
        swept = replace(small, name="sweep", stack=(Layers(6, 6),))
        return [
            Point("layer", small, precisions[0], (CUDNN, "eager", *OURS), 0.0, rounds=1),
            Point("sweep", swept, precisions[-1], (CUDNN, "nr-rh-st"), 0.0, rounds=1),
        ]
    measured = [name for name in _MEASURED if name in precisions]
    rest = [preset for name, preset in LAYER_PRESETS.items() if name not in _FIRST]
    presets = [LAYER_PRESETS[name] for name in _FIRST] + rest
    layer = [
        Point("layer", preset, name, (CUDNN, "eager", *OURS), _SECONDS)
        for name in measured
        for preset in presets
    ]
    sizes = [(1024, 64, 0.5)]
    sizes += [(hidden, 64, 0.5) for hidden in (2048, 4096, 512, 256)]
    sizes += [(1024, batch, 0.5) for batch in (16, 32, 128, 256)]
    sizes += [(1024, 64, p) for p in (0.25, 0.65, 0.75)]
    sizes += [(4096, 16, 0.75), (2048, 20, 0.65), (256, 256, 0.25)]
    swept = [
        Preset(f"h{hidden} b{batch} p{p}", (Layers(hidden, hidden),), batch=batch, steps=35, nr=p, rh=p)
        for hidden, batch, p in sizes
    ]
    return layer + [
        Point("sweep", preset, name, (CUDNN, "nr-rh-st"), _SWEEP_SECONDS)
        for name in measured
        for preset in swept
    ]
