"""Networks and machines of one's own, read from a TOML file that is checked key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from strop.hardware.arrays import Array
from strop.hardware.cells import CELLS, Cell
from strop.hardware.checks import check_count, choose
from strop.hardware.energy import ENERGIES, Energy
from strop.hardware.gpus import Gpu
from strop.hardware.layers import Drop, Layer, Linear
from strop.hardware.settings import Setting


@dataclass(frozen=True)
class Description:
    """What a file describes; None of what it does not.

    Attributes:
        setting: a network with its batch and steps.
        array: a systolic array.
        gpu: a GPU.
    """

    setting: Setting | None = None
    array: Array | None = None
    gpu: Gpu | None = None


def read(file: Path) -> Description:
    """What a TOML file describes in its tables ``setting``, ``array`` and ``gpu``.

    Keys are the arguments of ``Setting``, ``Layer``, ``Linear``, ``Drop``, ``Cell``, ``Array``, ``Energy``
    and ``Gpu``. Cells and energies may be named; ``rows`` and ``steps`` of a drop may be ``"all"``; ``count``
    in a layer makes as many, each fed by the one before.

    Args:
        file: its path.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TOML, or a key is unknown, missing or wrong: the message names it.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: it is no TOML ({error})") from error
    try:
        known = [field.name for field in fields(Description)]
        _check_keys("", content, known, [])
        if not content:
            raise ValueError(f"it is empty; give some of the tables {', '.join(known)}")
        return Description(
            _setting(content["setting"]) if "setting" in content else None,
            _build(Array, "array", {"name": file.stem, **_table("array", content)}, {"energy": _energy})
            if "array" in content
            else None,
            _build(Gpu, "gpu", {"name": file.stem, **_table("gpu", content)}) if "gpu" in content else None,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _table(key: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    return _check_table(key, content[key])


def _setting(table: Any) -> Setting:
    return _build(Setting, "setting", {"name": "own", **_check_table("setting", table)}, {"layers": _layers})


def _layers(where: str, value: Any) -> tuple[Layer | Linear, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{where}: {value!r}; write each layer as a table [[setting.layers]]")
    return tuple(layer for number, table in enumerate(value) for layer in _layer(f"{where}[{number}]", table))


def _layer(where: str, table: Any) -> list[Layer | Linear]:
    table = dict(_check_table(where, table))
    if "outputs" in table:
        return [_build(Linear, where, table, {"drop": _drop})]
    number = table.pop("count", 1)
    check_count(f"{where}.count", number, most=1000)
    convert = {"cell": _cell, "input_drop": _drop, "recurrent_drop": _drop}
    made: list[Layer | Linear] = []
    for _ in range(number):
        layer = _build(Layer, where, table, convert, more=("count", "outputs"))
        made.append(layer)
        table["inputs"] = layer.directions * (layer.projection or layer.hidden)
    return made


def _drop(where: str, value: Any) -> Drop:
    return _build(Drop, where, _check_table(where, value), {"rows": _extent, "steps": _extent})


def _extent(where: str, value: Any) -> int | None:
    if isinstance(value, str) and value != "all":
        raise ValueError(f'{where}: {value!r}; give an integer or "all"')
    return None if value == "all" else value


def _cell(where: str, value: Any) -> Cell:
    if isinstance(value, Mapping):
        return _build(Cell, where, {"name": "own", **value})
    return choose(where, value, CELLS)


def _energy(where: str, value: Any) -> Energy:
    if isinstance(value, Mapping):
        return _build(Energy, where, {"name": "own", **value}, {"mac": _mac})
    return choose(where, value, ENERGIES)


def _mac(where: str, value: Any) -> dict[int, Any]:
    table = _check_table(where, value)
    for bits in table:
        if not (bits.isascii() and bits.isdigit() and len(bits) < 4):
            raise ValueError(f"{where}.{bits}: the bits of a word are needed, as 16")
    return {int(bits): energy for bits, energy in table.items()}


def _build(
    kind: Any,
    where: str,
    table: Mapping[str, Any],
    convert: Mapping[str, Any] = {},
    more: tuple[str, ...] = (),
) -> Any:
    """A dataclass made of a table; errors say where in the file the wrong key is."""
    own = fields(kind)
    needed = [field.name for field in own if field.default is MISSING]
    _check_keys(where, table, [*(field.name for field in own), *more], needed)
    values = {
        key: convert[key](f"{where}.{key}", value) if key in convert else value
        for key, value in table.items()
    }
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{error}") from error


def _check_table(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where}: {value!r}; a table is needed")
    return value


def _check_keys(where: str, table: Mapping[str, Any], known: list[str], needed: list[str]) -> None:
    dot = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise ValueError(f"{dot}{key}: unknown; known are {', '.join(known)}")
    for key in needed:
        if key not in table:
            raise ValueError(f"{dot}{key}: missing")
