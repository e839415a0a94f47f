"""`strop hardware`: what structured dropout is worth on a machine, before it is built or rented."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from strop.hardware import description, gpu_report, records, report
from strop.hardware.analysis import analyse
from strop.hardware.arrays import Array, find_array
from strop.hardware.checks import check_count
from strop.hardware.energy import ENERGIES
from strop.hardware.gpu_report import Case
from strop.hardware.gpus import GPUS, Gpu
from strop.hardware.layers import Layer
from strop.hardware.remedies import remedies
from strop.hardware.settings import PAPER, Dropout, PaperName, Setting
from strop.hardware.systolic import Dataflow

_OF_ARRAYS = ("double_buffered", "count", "clock", "sram", "energy")
_OF_GPUS = ("multiprocessors", "tile", "split")


@dataclass(frozen=True)
class Options:
    """Predict what structured dropout is worth on a systolic array or a GPU: cycles, traffic, energy.

    Every product of a training step (FP, BP and WG of the input and of the recurrent weights) is run dense
    over all steps at once, dense step by step, and on kept columns; the table shows each, and what is
    fastest. Where skipping loses, a second table shows what helps. Nothing is measured: figures follow from
    closed formulae.

    strop hardware --preset zaremba-large --array 128x128 --plot large.png

    strop hardware --compare zaremba-medium zaremba-large --gpu titan-v
    """

    preset: PaperName = "zaremba-large"
    """Network, batch and steps."""

    dropout: Dropout = "nr-rh-st"
    """Masks shared by the batch: of layers' inputs (nr-st), and of hidden states too (nr-rh-st)."""

    p: float | None = None
    """Share to drop wherever something is dropped, in place of the preset's."""

    batch: int | None = None
    """Rows of a time step, in place of the preset's."""

    steps: int | None = None
    """Time steps, in place of the preset's."""

    block: int = 1
    """Adjacent units that are dropped together; they divide every layer's units."""

    mask_steps: int = 1
    """Time steps that share a mask."""

    gate_keep: float = 1.0
    """Share of gate gradients, in panels of 16 units, that BP and WG compute at each step."""

    array: str = "128x128"
    """128x128 (one of a TPU v4i's) or any ROWSxCOLUMNS with its memories; edge (32x32), eyeriss, tpu-v1."""

    dataflow: Literal["best", "ws", "is", "os"] = "best"
    """What stays in the array: weights, inputs or outputs; or for each product the best of these."""

    double_buffered: bool = False
    """Whether the array loads the next stationary operand while this one is in use."""

    count: int | None = None
    """Equal arrays that share a product's folds."""

    clock: float | None = None
    """GHz of the array, in place of its own."""

    sram: tuple[int, int, int] | None = None
    """KiB of the buffers of A, B and C (inputs, weights and outputs in FP), in place of the array's."""

    gpu: Literal["titan-v", "a100", "h100"] | None = None
    """A GPU in place of the array: tiles, waves and lengths of loops."""

    multiprocessors: int | None = None
    """Multiprocessors of the GPU, in place of its own."""

    tile: tuple[int, int, int] | None = None
    """Rows, columns and depth of the GPU's tiles."""

    split: int | None = None
    """Parts that a GPU's sum is cut into (split-K)."""

    bandwidth: float | None = None
    """GB/s from and to memory, in place of the machine's."""

    bits: int | None = None
    """Bits of a word, in place of the machine's."""

    energy: Literal["45nm", "tpu-v4i", "eyeriss"] | None = None
    """Table of energies, in place of the array's."""

    file: Path | None = None
    """A TOML file with tables setting, array or gpu, in place of preset, --array or --gpu."""

    compare: tuple[str, ...] = ()
    """Presets or TOML files, side by side on the same machine."""

    json: Path | None = None
    """Also write all numbers to this file."""

    plot: Path | None = None
    """Also draw cycles and energy over p, and the roofline, or what is compared, into this PNG or SVG."""


def run(options: Options) -> int:
    _check_outputs(options)
    own = description.Description() if options.file is None else description.read(options.file)
    machine = _machine(options, own)
    settings: list[Case]
    if options.compare:
        settings = [_compared(options, name) for name in options.compare]
    else:
        settings = [
            (own.setting or _preset(options, options.preset), None if own.setting else _measured(options))
        ]
    settings = [(_changed(options, setting), dropout) for setting, dropout in settings]
    written = (
        _on_gpu(options, settings, machine)
        if isinstance(machine, Gpu)
        else _on_array(options, settings, machine)
    )
    if options.json is not None:
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        print(f"drawn: {options.plot}")
    return 0


def _on_array(options: Options, settings: list[Case], array: Array) -> dict[str, Any]:
    flow: Dataflow | Literal["best"] = options.dataflow
    analyses = [analyse(setting, array, flow) for setting, _ in settings]
    found = [remedies(setting, array, flow) for setting, _ in settings]
    if options.compare:
        report.show_comparison(analyses)
    else:
        report.show_array(analyses[0], found[0])
    if options.plot is not None:
        from strop.hardware import plot

        if options.compare:
            plot.draw_comparison(analyses, options.plot)
        else:
            plot.draw_array(settings[0][0], array, flow, options.plot)
    return records.array_file(array, flow, list(zip(analyses, found, strict=True)))


def _on_gpu(options: Options, settings: list[Case], gpu: Gpu) -> dict[str, Any]:
    if options.compare:
        gpu_report.show_gpu_comparison(settings, gpu)
    else:
        gpu_report.show_gpu(settings[0][0], gpu, settings[0][1])
    if options.plot is not None:
        from strop.hardware import plot

        plot.draw_gpu([setting for setting, _ in settings], gpu, options.plot)
    return records.gpu_file(gpu, settings)


def _check_outputs(options: Options) -> None:
    for name in ("json", "plot"):
        path: Path | None = getattr(options, name)
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{name}: the folder {path.parent} does not exist; make it first")
        if path is not None and path.is_dir():
            raise ValueError(f"{name}: {path} is a folder; name a file")
    if options.plot is not None and options.plot.suffix not in (".png", ".svg"):
        raise ValueError(f"plot: {options.plot}; the name must end in .png or .svg")


def _machine(options: Options, own: description.Description) -> Array | Gpu:
    """The machine that the options or the file name, with what the options say in place of its own."""
    if own.array is not None and own.gpu is not None:
        raise ValueError(f"file: {options.file} has the tables array and gpu; leave one of them")
    gpu = own.gpu or (None if options.gpu is None or own.array is not None else GPUS[options.gpu])
    machine = gpu or own.array or find_array(options.array)
    given = {name: getattr(options, name) for name in (*_OF_ARRAYS, *_OF_GPUS, "bandwidth", "bits")}
    changes = {name: value for name, value in given.items() if value is not None and value is not False}
    for name in _OF_ARRAYS if gpu is not None else _OF_GPUS:
        if name in changes:
            raise ValueError(f"{name}: it says nothing of {'a GPU' if gpu else 'an array; name a --gpu'}")
    if "sram" in changes:
        changes |= zip(("sram_a", "sram_b", "sram_c"), changes.pop("sram"), strict=True)
    if "energy" in changes:
        changes["energy"] = ENERGIES[changes["energy"]]
    return replace(machine, **changes)


def _preset(options: Options, name: str) -> Setting:
    return PAPER[name].setting(options.dropout)


def _measured(options: Options) -> Dropout | None:
    """The dropout whose measured speed-ups go with the setting; None if it is not as the paper has it."""
    changed = (options.p, options.batch, options.steps, options.block, options.mask_steps, options.gate_keep)
    return options.dropout if changed == (None, None, None, 1, 1, 1.0) else None


def _compared(options: Options, name: str) -> Case:
    if name in PAPER:
        return _preset(options, name), _measured(options)
    if not name.endswith(".toml"):
        raise ValueError(f"compare: {name!r}; give TOML files or some of {', '.join(PAPER)}")
    setting = description.read(Path(name)).setting
    if setting is None:
        raise ValueError(f"compare: {name} has no table setting")
    return setting, None


def _changed(options: Options, setting: Setting) -> Setting:
    """With what the options say in place of the setting's own."""
    check_count("mask_steps", options.mask_steps)
    check_count("block", options.block)
    for name in ("batch", "steps"):
        if getattr(options, name) is not None:
            check_count(name, getattr(options, name))
            setting = replace(setting, **{name: getattr(options, name)})
    changes: dict[str, Any] = {}
    if options.p is not None:
        changes["p"] = options.p
    if options.block != 1:
        changes["block"] = options.block
    if options.mask_steps != 1:
        changes["steps"] = options.mask_steps
    if changes:
        setting = setting.dropping(**changes)
    if options.gate_keep != 1:
        layers = (
            replace(layer, gate_keep=options.gate_keep) if isinstance(layer, Layer) else layer
            for layer in setting.layers
        )
        setting = replace(setting, layers=tuple(layers))
    return setting
