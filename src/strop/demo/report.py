"""What a demo found: a table for the terminal, and report.md, report.json, perplexity.png, curves.csv."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from strop import tables
from strop.bench import machine
from strop.demo.racers import Racer
from strop.tasks.language.presets import Dropout, Preset
from strop.training import plot_curves, value_at
from strop.training.files import write_atomically
from strop.training.progress import counted, duration

_CURVES, _PLOT = "curves.csv", "perplexity.png"
_FILES = {_CURVES, _PLOT, "report.json", "report.md"}
_PHASES = ("forward", "backward", "optimiser")
_BASELINE: Dropout = "nr-random"
_MEANING: dict[Dropout, str] = {
    "nr-random": "torch.nn.LSTM, nn.Dropout and nn.Linear: single elements dropped, between layers only",
    "nr-st": "strop.LSTM and strop.Linear: units dropped for the whole batch, anew at every step",
    "nr-rh-st": "the same, and hidden states too on their way to the next step",
}


def prepare(folder: Path) -> None:
    """Makes the report's folder, and checks that a report can be written there and may replace what is there.

    Raises:
        ValueError: it cannot be made or written, or holds something else than an earlier report.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable.partial"
        write_atomically(probe, "")
        probe.unlink()
        names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".partial")}
    except OSError as error:
        raise ValueError(
            f"out: {folder} cannot be written ({error.strerror}); name another folder (--out)"
        ) from error
    if names and not {_CURVES} <= names <= _FILES:
        other = ", ".join(sorted(names - _FILES or names)[:3])
        raise ValueError(
            f"out: {folder} holds something else than a demo's report ({other}); name another folder (--out)"
        )


@dataclass(frozen=True)
class Line:
    """One kind of dropout; the fields of report.json, and the speed-up by phase."""

    dropout: Dropout
    valid_ppl: float
    test_ppl: float
    valid_ppl_equal_time: float
    ms_per_step: float
    tokens_per_s: float
    speedup_vs_torch: float
    phases: tuple[float, ...]

    def cells(self) -> list[str]:
        return [
            self.dropout,
            f"{self.valid_ppl:.1f}",
            f"{self.test_ppl:.1f}",
            f"{self.valid_ppl_equal_time:.1f}",
            f"{self.ms_per_step:.1f}",
            f"{self.tokens_per_s:,.0f}",
            f"{self.speedup_vs_torch:.2f}x",
            *(f"{ratio:.2f}x" for ratio in self.phases),
        ]


@dataclass(frozen=True)
class Report:
    """The findings of a demo.

    Attributes:
        seconds: training time at which the fastest kind of dropout was done.
        curves: rows of each learning curve.
        notes: how and on what it was measured.
    """

    lines: tuple[Line, ...]
    seconds: float
    epochs: float
    curves: dict[str, Sequence[dict[str, float]]]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, racers: Sequence[Racer], preset: Preset, text: str, took: float, notes: Sequence[str]
    ) -> "Report":
        """`text` describes the data, `took` is in seconds, from the beginning to now."""
        seconds = min(racer.clock.total() for racer in racers)
        base = next(racer for racer in racers if racer.dropout == _BASELINE).clock.medians_ms()
        words = preset.steps * preset.batch
        lines = tuple(
            Line(
                racer.dropout,
                valid_ppl=racer.rows[-1]["valid_perplexity"],
                test_ppl=racer.test,
                valid_ppl_equal_time=value_at(racer.rows, seconds, "valid_perplexity"),
                ms_per_step=own["step"],
                tokens_per_s=words / own["step"] * 1e3,
                speedup_vs_torch=base["step"] / own["step"],
                phases=tuple(base[phase] / own[phase] for phase in _PHASES),
            )
            for racer in racers
            for own in (racer.clock.medians_ms(),)
        )
        device = torch.device("cpu")
        return cls(
            lines,
            seconds,
            racers[0].rows[-1]["epoch"],
            {racer.dropout: racer.rows for racer in racers},
            (
                text,
                f"{preset.layers} LSTM layers of {preset.units} units, p {preset.p}, batch {preset.batch}, "
                f"{preset.steps} steps; the same hyper-parameters, initial weights and order of the text for "
                "all, which took turns every few steps.",
                "Times and tokens/s are medians over all steps, evaluation excluded; valid perplexity at "
                "equal training time is read off each learning curve at the time when the fastest was done, "
                f"{seconds:.1f} s.",
                f"{machine.cpu_model()}, {counted(torch.get_num_threads(), 'thread')}, fp32, backend "
                f"{machine.backend(device)}, torch {torch.__version__}; {duration(took)} minutes in all.",
                *notes,
            ),
        )

    @property
    def length(self) -> str:
        """Of the training, in epochs."""
        return f"{self.epochs:.3g} epoch{'s' * (self.epochs != 1)}"

    def verdict(self) -> str:
        by_name = {line.dropout: line for line in self.lines}
        ours, theirs = by_name["nr-rh-st"], by_name[_BASELINE]
        return (
            f"After {self.seconds:.0f} s of training each, nr-rh-st is at valid perplexity "
            f"{ours.valid_ppl_equal_time:.1f} and {_BASELINE} at {theirs.valid_ppl_equal_time:.1f} "
            f"({ours.valid_ppl_equal_time / theirs.valid_ppl_equal_time - 1:+.1%}); after {self.length} "
            f"each, at {ours.valid_ppl:.1f} and {theirs.valid_ppl:.1f} "
            f"({ours.valid_ppl / theirs.valid_ppl - 1:+.1%})."
        )

    def header(self) -> list[str]:
        return [
            "dropout",
            "valid",
            "test",
            f"at {self.seconds:.0f} s",
            "ms/step",
            "tokens/s",
            "speed-up",
            *_PHASES,
        ]

    def show(self, folder: Path) -> None:
        title = f"Perplexity after {self.length}, and valid perplexity after {self.seconds:.0f} s"
        meanings = [f"{name}: {meaning}" for name, meaning in _MEANING.items()]
        print()
        tables.show(title, self.header(), [[line.cells() for line in self.lines]], ["", *meanings])
        print(f"\n{self.verdict()}\n{folder / 'report.md'}, {folder / _PLOT}")

    def write(self, folder: Path) -> None:
        write_atomically(folder / _CURVES, self._csv())
        plotted = {name: rows[1:] for name, rows in self.curves.items()}  # not the untrained model
        plot_curves(plotted, "valid_perplexity", folder / _PLOT)
        write_atomically(folder / "report.json", json.dumps(self._json(), indent=1) + "\n")
        write_atomically(folder / "report.md", self._markdown())

    def _json(self) -> list[dict[str, str | float]]:
        names = ["dropout", "valid_ppl", "test_ppl", "valid_ppl_equal_time"]
        names += ["ms_per_step", "tokens_per_s", "speedup_vs_torch"]
        return [{name: getattr(line, name) for name in names} for line in self.lines]

    def _csv(self) -> str:
        out = io.StringIO()
        rows = [{"dropout": name, **row} for name, rows in self.curves.items() for row in rows]
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def _markdown(self) -> str:
        header = [
            "dropout",
            "valid perplexity",
            "test perplexity",
            f"valid perplexity after {self.seconds:.0f} s",
            "ms per step",
            "tokens/s",
            "speed-up over `nn.LSTM`",
            *_PHASES,
        ]
        rows = [header, ["---"] * len(header), *(line.cells() for line in self.lines)]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        meanings = "".join(f"- `{name}`: {meaning}.\n" for name, meaning in _MEANING.items())
        notes = "".join(f"- {note}\n" for note in self.notes)
        return (
            f"# strop demo\n\n{self.verdict()}\n\n{table}\n{meanings}\n"
            f"![valid perplexity over training time]({_PLOT})\n\nThe curves' numbers: {_CURVES}.\n\n{notes}"
        )
