"""Systolic arrays, their memories and clocks: presets, and arrays of any size."""

import re
from dataclasses import dataclass, replace

from strop.hardware.checks import check_count, check_flag, check_positive, check_text
from strop.hardware.energy import ENERGIES, Energy


@dataclass(frozen=True)
class Array:
    """A systolic array of ``rows`` x ``columns`` multiply-adders with three buffers and one memory.

    Args:
        name: what tables call it.
        rows: of the array.
        columns: of the array.
        count: equal arrays that share a product's folds.
        clock: GHz.
        sram_a: KiB of the buffer of first factors, half of which holds what is in use.
        sram_b: KiB of the buffer of second factors, likewise.
        sram_c: KiB of the buffer of results, likewise.
        bandwidth: GB/s from and to memory.
        bits: of a word.
        double_buffered: whether the next stationary operand is loaded while this one is in use.
        energy: the table of energies.
    """

    name: str
    rows: int
    columns: int
    count: int = 1
    clock: float = 1.0
    sram_a: int = 8192
    sram_b: int = 8192
    sram_c: int = 8192
    bandwidth: float = 100.0
    bits: int = 16
    double_buffered: bool = False
    energy: Energy = ENERGIES["45nm"]

    def __post_init__(self) -> None:
        check_text("name", self.name)
        for name in ("rows", "columns"):
            check_count(name, getattr(self, name), most=65_536)
        check_count("count", self.count, most=10_000_000)
        for name in ("clock", "bandwidth"):
            check_positive(name, getattr(self, name))
        check_count("bits", self.bits, most=64)
        check_flag("double_buffered", self.double_buffered)
        if not isinstance(self.energy, Energy):
            raise TypeError(f"energy: {self.energy!r}; a table of energies is needed")
        for name in ("sram_a", "sram_b", "sram_c"):
            check_count(name, getattr(self, name))
            side = max(self.rows, self.columns)
            if self.capacity(name) < side:
                raise ValueError(
                    f"{name}: {getattr(self, name)} KiB; half of it holds {self.capacity(name)} words of "
                    f"{self.bits} bits, and a side of the array takes {side} at once"
                )
        self.energy.of(self.bits, 0, 0, 0, 0)  # words that the table lacks are refused here

    @property
    def macs(self) -> int:
        """Multiply-adders, of all arrays."""
        return self.count * self.rows * self.columns

    @property
    def words_per_cycle(self) -> float:
        """Words that come from memory in one cycle."""
        return self.bandwidth / self.clock / (self.bits / 8)

    def capacity(self, buffer: str) -> int:
        """Words in use that ``sram_a``, ``sram_b`` or ``sram_c`` holds: the other half is being filled."""
        return getattr(self, buffer) * 1024 * 8 // (2 * self.bits)


#: By name. Where a source says less than is needed here, the comment says what was assumed.
ARRAYS = {
    array.name: array
    for array in (
        # One of the four arrays of a TPU v4i, alone on the memory: 128 MB on the chip, divided by us.
        Array(
            "128x128",
            128,
            128,
            clock=1.05,
            sram_a=24 * 1024,
            sram_b=48 * 1024,
            sram_c=56 * 1024,
            bandwidth=614,
            energy=ENERGIES["tpu-v4i"],
        ),
        # A small accelerator: 3 MiB on the chip and one channel of memory, assumed.
        Array(
            "edge",
            32,
            32,
            clock=0.7,
            sram_a=1024,
            sram_b=1024,
            sram_c=1024,
            bandwidth=25.6,
            energy=ENERGIES["45nm"],
        ),
        # Eyeriss's 12 x 14 elements, 108 KB and 16 bits (Chen et al., ISSCC 2016), with these dataflows in
        # the place of row stationary; the division of the buffer and 1 GB/s are assumed.
        Array(
            "eyeriss",
            12,
            14,
            clock=0.2,
            sram_a=36,
            sram_b=36,
            sram_c=36,
            bandwidth=1.0,
            energy=ENERGIES["eyeriss"],
        ),
        # Jouppi et al., ISCA 2017: 24 MiB of activations, 4 MiB of accumulators, weights through a FIFO of
        # four tiles of 64 KiB from a memory of their own.
        Array(
            "tpu-v1",
            256,
            256,
            clock=0.7,
            sram_a=24 * 1024,
            sram_b=256,
            sram_c=4 * 1024,
            bandwidth=34,
            bits=8,
            double_buffered=True,
            energy=ENERGIES["45nm"],
        ),
    )
}
_SIZE = re.compile(r"([0-9]+)x([0-9]+)")


def find_array(name: str) -> Array:
    """A preset, or an array of any size with the memories and clock of ``128x128``.

    Args:
        name: a key of ``ARRAYS``, or ROWSxCOLUMNS.

    Raises:
        ValueError: it is neither, or an array of no rows or columns.
    """
    if name in ARRAYS:
        return ARRAYS[name]
    size = _SIZE.fullmatch(name)
    if size is None:
        known = ", ".join(ARRAYS)
        raise ValueError(f"array: {name!r}; give ROWSxCOLUMNS, as 64x64, or one of {known}")
    rows, columns = (int(side) if len(side) < 10 else 10**9 for side in size.groups())
    return replace(ARRAYS["128x128"], name=name, rows=rows, columns=columns)
