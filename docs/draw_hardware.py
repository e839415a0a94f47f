"""Draws the pictures of hardware.md, and writes the numbers behind its tables into benchmarks/results.

`python docs/draw_hardware.py`. All of it follows from formulae; a test tells whether the numbers are current.
"""

import csv
import io
import json
from pathlib import Path

from strop.hardware import GPUS, PAPER, analyse, find_array, plot, records, remedies, speedup
from strop.hardware.paper import MEASURED, OVERALL
from strop.hardware.products import PHASES

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
ARRAYS = ("128x128", "edge", "eyeriss")
TITAN = GPUS["titan-v"]
SETTINGS = [stack.setting() for stack in PAPER.values()]


def results() -> dict[str, str]:
    """By file: what `strop hardware --json` writes of the paper's five settings, and the tables."""
    made = {}
    for name in ARRAYS:
        array = find_array(name)
        pairs = [(analyse(setting, array), remedies(setting, array)) for setting in SETTINGS]
        made[f"hardware-{name}.json"] = _json(records.array_file(array, "best", pairs))
    cases = [(PAPER[name].setting(dropout), dropout) for name, dropout in MEASURED]
    made["hardware-titan-v.json"] = _json(records.gpu_file(TITAN, cases))
    return {
        **made,
        "hardware-paper.csv": _paper(),
        "hardware-remedies.csv": _remedies(),
        "hardware-arrays.csv": _arrays(),
    }


def pictures(folder: Path) -> None:
    """Draws all of them into a folder."""
    large, array = PAPER["zaremba-large"].setting(), find_array("128x128")
    plot.draw_array(large.dropping(block=125), array, "best", folder / "hardware-array.svg")
    plot.draw_remedies(remedies(large, array), folder / "hardware-remedies.svg")
    plot.draw_gpu([large], TITAN, folder / "hardware-gpu.svg")


def _paper() -> str:
    """Speed-ups on a TITAN V, as tiles have them and as measured."""
    header = ["network", "dropout", *(f"{phase.upper()}: model, measured" for phase in PHASES)]
    rows = [[*header, "whole: model, measured"]]
    for (name, dropout), measured in MEASURED.items():
        setting = PAPER[name].setting(dropout)
        ratios = [speedup(setting, TITAN, "stepwise", phase) for phase in (*PHASES, None)]
        figures = [*(measured[phase] for phase in PHASES), OVERALL[name, dropout]]
        cells = (f"{ratio:.2f}, {figure:.2f}" for ratio, figure in zip(ratios, figures, strict=True))
        rows.append([name, dropout.upper().replace("-", "+"), *cells])
    return _csv(rows)


def _remedies() -> str:
    """What helps each setting on an array of 128 x 128."""
    rows = [["network", "change", "FP", "BP", "WG", "whole step", "thousand cycles", "mJ"]]
    for setting in SETTINGS:
        for each in remedies(setting, find_array("128x128")):
            best = each.analysis.sum("best")
            ratios = (f"{each.over_batched(phase):.2f}x" for phase in PHASES)
            cells = (f"{each.best:.2f}x", f"{best.total / 1e3:,.0f}", f"{best.energy / 1e9:.2f}")
            rows.append([setting.name, each.name, *ratios, *cells])
    return _csv(rows)


def _arrays() -> str:
    """Whole steps on each array: skipping everywhere, and where it pays, over dense."""
    header = ["array", "network", "everywhere, over step by step", "everywhere, over dense at once"]
    rows = [[*header, "where it pays, over dense at once", "its energy, of dense at once"]]
    for name in ARRAYS:
        for setting in SETTINGS:
            analysis = analyse(setting, find_array(name))
            energy = analysis.sum("best").energy / analysis.sum("batched").energy
            ratios = [
                analysis.speedup("kept", "stepwise"),
                analysis.speedup("kept"),
                analysis.speedup("best"),
            ]
            rows.append([name, setting.name, *(f"{ratio:.2f}x" for ratio in ratios), f"{energy:.0%}"])
    return _csv(rows)


def _csv(rows: list[list[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _json(written: dict[str, object]) -> str:
    return json.dumps(written, indent=1) + "\n"


if __name__ == "__main__":
    for file, text in results().items():
        (RESULTS / file).write_text(text, encoding="utf-8")
    pictures(DOCS)
