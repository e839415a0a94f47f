"""What a multiply-add and a moved bit cost, from published tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from strop.hardware.checks import check_positive, check_text


@dataclass(frozen=True)
class Energy:
    """A table of energies. Registers inside an array, control and leakage are in none of them.

    Args:
        name: what tables call it.
        mac: a multiply-add, by the bits of its factors.
        sram_read: a bit read from the buffers beside the array.
        sram_write: a bit written there.
        dram: a bit from or to memory off the chip.
        unit: of all of them.
        source: where they were published.
    """

    name: str
    mac: Mapping[int, float]
    sram_read: float
    sram_write: float
    dram: float
    unit: str = "pJ"
    source: str = "own"

    def __post_init__(self) -> None:
        for name in ("name", "unit", "source"):
            check_text(name, getattr(self, name))
        if not self.mac:
            raise ValueError(
                "mac: it is empty; give the energy of a multiply-add for some word, as {16 = 1.5}"
            )
        for bits, energy in self.mac.items():
            check_positive(f"mac.{bits}", energy)
        for name in ("sram_read", "sram_write", "dram"):
            check_positive(name, getattr(self, name))

    def of(self, bits: int, macs: int, reads: int, writes: int, dram: int) -> float:
        """The energy of multiply-adds and of words of ``bits`` read and written in SRAM and moved in DRAM.

        Raises:
            ValueError: the table has no multiply-add of ``bits``.
        """
        if bits not in self.mac:
            known = ", ".join(map(str, sorted(self.mac)))
            raise ValueError(f"bits: {bits}; the energy table {self.name} has words of {known} bits only")
        moved = reads * self.sram_read + writes * self.sram_write + dram * self.dram
        return macs * self.mac[bits] + bits * moved


#: By name.
ENERGIES = {
    table.name: table
    for table in (
        Energy(
            "45nm",
            {8: 0.2 + 0.03, 16: 1.1 + 0.4, 32: 3.7 + 0.9},
            sram_read=5 / 32,
            sram_write=5 / 32,
            dram=640 / 32,
            source="multiply + add: Horowitz, ISSCC 2014; SRAM and DRAM: Han et al. 2015, Fig. 1",
        ),
        # One figure for a multiply-add, whatever its factors; buffers of 4 MB.
        Energy(
            "tpu-v4i",
            {8: 0.084, 16: 0.084},
            sram_read=0.249,
            sram_write=0.293,
            dram=7.03,
            source="accelforge, examples/arches/tpu_v4i.yaml, after Jouppi et al., ISCA 2021",
        ),
        # Words of 16 bits: the global buffer costs 6 multiply-adds a word, DRAM 200.
        Energy(
            "eyeriss",
            {16: 1.0},
            sram_read=6 / 16,
            sram_write=6 / 16,
            dram=200 / 16,
            unit="multiply-adds",
            source="Chen et al., ISCA 2016, relative to a multiply-add of 16 bits",
        ),
    )
}
