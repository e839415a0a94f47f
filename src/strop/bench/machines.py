"""The machines that rows of results tell of: their CPUs, and what ran there."""

from collections.abc import Sequence

Row = dict[str, str]

ISAS = {"portable": "portable code", "avx2": "AVX2", "avx512": "AVX-512"}  # a CPU's default is its last
BACKENDS = {
    "reference": "plain PyTorch",
    **{f"native {isa}": name for isa, name in ISAS.items()},
    "triton": "Triton",
}


def default_isa(rows: Sequence[Row]) -> list[Row]:
    """The rows of each CPU's best instruction set that was measured: others were asked for (`--isa`)."""
    best: dict[tuple[str, ...], int] = {}
    for row in rows:
        best[_cpu(row)] = max(best.get(_cpu(row), -1), _rank(row))
    return [row for row in rows if _rank(row) == best[_cpu(row)]]


def _rank(row: Row) -> int:
    return list(BACKENDS).index(row["backend"]) if row["backend"] in BACKENDS else -1


def _cpu(row: Row) -> tuple[str, ...]:
    """CPUs of one name may have other caches; rows of older versions do not tell."""
    return row["cpu"], *(row.get(name) or "" for name in ("l1d_kb", "l2_kb", "l3_kb"))


def machine_of(row: Row) -> tuple[str, ...]:
    return *_cpu(row), row["threads"], row["device"]


def heading(rows: Sequence[Row]) -> str:
    """A line about the machine of rows: `CPU, L1d …, threads, precision, instruction sets…`."""
    newest = max(rows, key=lambda row: row["date"])
    where = newest["device"]
    if where == "cpu":
        threads = newest["threads"]
        where = ", ".join([newest["cpu"], *_caches(newest), f"{threads} thread{'s' * (threads != '1')}"])
    precision = "autocast to bfloat16" if newest["bench"].endswith("-bf16") else "fp32"
    each = of_each_backend(rows)
    dates = dict.fromkeys(row["date"][:10] for row in each)
    return (
        f"{where}, {precision}, {' and '.join(map(_ran, each))}, torch {newest['torch']}, "
        f"Python {newest['python']}, {' and '.join(dates)}; p50 (p20 to p80)"
    )


def of_each_backend(rows: Sequence[Row]) -> list[Row]:
    """The last row of each, the best first."""
    last = {row["backend"]: row for row in sorted(rows, key=lambda row: row["date"])}
    return sorted(last.values(), key=_rank, reverse=True)


def _caches(row: Row) -> list[str]:
    sizes = [(name, row.get(column) or "") for name, column in (("L1d", "l1d_kb"), ("L2", "l2_kb"))]
    known = [f"{name} {_kilobytes(size)} a core" for name, size in sizes if size]
    return [*known, *([f"L3 {_kilobytes(row['l3_kb'])}"] if row.get("l3_kb") else [])]


def _kilobytes(text: str) -> str:
    return f"{text} KB" if int(text) < 1024 else f"{int(text) / 1024:g} MB"


def _ran(row: Row) -> str:
    """The instruction sets of strop and of torch in a row; rows of older versions do not tell torch's."""
    name, torchs = BACKENDS.get(row["backend"], row["backend"]), row.get("torch_isa") or ""
    if not torchs:
        return f"{name} in strop"
    told = ", ".join(" ".join(ISAS.get(word, word) for word in each.split()) for each in torchs.split(", "))
    return f"{name} on both sides" if told == name else f"{name} in strop ({told} in torch)"
