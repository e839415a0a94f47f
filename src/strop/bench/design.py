"""Which points a sweep measures: a base with every axis varied from it, the corners, and a random sample."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Literal

from strop.bench.presets import Layers, Preset
from strop.hardware import count, works

Kind = Literal["nr-st", "nr-rh-st"]
KINDS: tuple[Kind, ...] = ("nr-st", "nr-rh-st")


@dataclass(frozen=True)
class Point:
    """A stack of equal layers, whose input is as wide as they are, and what is dropped of it."""

    kind: Kind
    hidden: int
    batch: int
    steps: int
    p: float
    layers: int = 1

    @property
    def preset(self) -> Preset:
        name = f"{self.kind} {self.layers}x{self.hidden} batch {self.batch} steps {self.steps} p {self.p:g}"
        stack = (Layers(self.hidden, self.hidden, self.layers),)
        return Preset(name, stack, self.batch, self.steps, self.p, self.p if self.kind == "nr-rh-st" else 0.0)


_BASE = Point("nr-st", hidden=512, batch=20, steps=35, p=0.5)
_AXES = {
    "layers": (2,),
    "hidden": (64, 128, 256, 1024, 2048, 4096),
    "batch": (1, 4, 64, 256),
    "steps": (1, 5, 100, 200),
    "p": (0.0, 0.1, 0.25, 0.75, 0.9, 0.99),
}
_CORNERS = {"hidden": (64, 4096), "batch": (1, 256), "steps": (1, 200), "p": (0.0, 0.9)}


def points(seed: int) -> Iterator[Point]:
    """Base, corners and axes, each with both kinds of dropout, then random points without end."""
    corners = (
        replace(_BASE, **dict(zip(_CORNERS, values, strict=True))) for values in product(*_CORNERS.values())
    )
    axes = (replace(_BASE, **{name: value}) for name, values in _AXES.items() for value in values)
    for point in (_BASE, *corners, *axes):
        yield point
        if point.p:  # with nothing dropped both kinds are the same
            yield replace(point, kind="nr-rh-st")
    random = Random(seed)
    while True:
        yield _drawn(random)


def _drawn(random: Random) -> Point:
    """Sizes even in the logarithm, so that small ones are as frequent as large ones."""

    def size(least: int, most: int) -> int:
        return round(math.exp(random.uniform(math.log(least), math.log(most))))

    return Point(
        kind=random.choice(KINDS),
        hidden=size(64, 4096),
        batch=size(1, 256),
        steps=size(1, 200),
        p=round(random.uniform(0.02, 0.98), 2),
        layers=random.choice((1, 2)),
    )


def seconds(point: Point, gflops: float, gigabytes: float) -> float:
    """A bound of what forward and backward take with nothing dropped, at the machine's own speeds in
    GFLOP/s and GB/s: the products', or that of reading the recurrent weights at every step if from memory."""
    setting = point.preset.dropping(0.0, 0.0)
    products = works(setting.layers, point.batch, point.steps, "stepwise")
    serial = [work for work in products if work.matrix.serial and work.phase != "wg"]
    weights = count(serial).b * 4
    return max(count(products).operations / gflops, weights / gigabytes) / 1e9
