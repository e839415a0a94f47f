"""Instruction sets in what was measured."""

from collections.abc import Sequence

Row = dict[str, str]

ISAS = ("portable", "avx2", "avx512")
"""The last that a CPU has is its default."""


def default_isa(rows: Sequence[Row]) -> list[Row]:
    """Those of the best instruction set that was measured on each CPU: others were asked for (STROP_ISA)."""

    def rank(row: Row) -> int:
        isa = row["backend"].removeprefix("native ")
        return ISAS.index(isa) if isa in ISAS else -1

    best: dict[str, int] = {}
    for row in rows:
        best[row["cpu"]] = max(best.get(row["cpu"], -1), rank(row))
    return [row for row in rows if rank(row) == best[row["cpu"]]]
