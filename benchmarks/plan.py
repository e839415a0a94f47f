"""The trainings whose results docs/results.md shows: tables 1 to 3 of Sarma et al. (NeurIPS 2021)."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

DROPOUTS = ("nr-random", "nr-st", "nr-rh-st")
Figures = tuple[str, ...]


@dataclass(frozen=True)
class Training:
    """A preset on a data set, with each kind of dropout.

    Attributes:
        data: name of the data set, which is given to `--data` as a folder.
        paper: the paper's figures by kind of dropout, in the order of the table's measures.
        layers: preset of `strop bench layer` with the same products.
        steps: preset of `strop bench train` with the same steps.
        seeds: how many to take the mean of.
    """

    data: str
    preset: str
    paper: dict[str, Figures]
    layers: str | None = None
    steps: str | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes:
        command: what trains.
        module: where its options and presets are.
        measures: split and metric of each figure.
    """

    name: str
    command: str
    module: str
    measures: tuple[tuple[str, str], ...]
    trainings: tuple[Training, ...]

    @property
    def presets(self) -> dict[str, Any]:
        """All presets of the command, by name."""
        return import_module(f"{self.module}.presets").PRESETS


_TRANSLATION = ("valid", "bleu"), ("test", "bleu")
_TAGGING = tuple(("test", metric) for metric in ("accuracy", "precision", "recall", "f1"))

TABLES = (
    Table(
        "language",
        "train lm",
        "strop.tasks.language",
        (("valid", "perplexity"), ("test", "perplexity")),
        (
            Training(
                "ptb",
                "zaremba-medium",
                {
                    "nr-random": ("86.20", "82.70"),
                    "nr-st": ("86.60", "83.01"),
                    "nr-rh-st": ("83.64", "80.84"),
                },
                "zaremba-medium",
                "zaremba-medium",
            ),
            Training(
                "ptb",
                "zaremba-large",
                {
                    "nr-random": ("82.20", "78.40"),
                    "nr-st": ("85.42", "82.39"),
                    "nr-rh-st": ("79.38", "76.05"),
                },
                "zaremba-large",
                "zaremba-large",
            ),
            Training(
                "ptb",
                "awd-lstm",
                {"nr-random": ("63.31", "61.21"), "nr-rh-st": ("63.95", "61.77")},
                "awd-lstm",
            ),
        ),
    ),
    # The paper reports one BLEU for each of its data sets; it does not say of which split.
    Table(
        "translation",
        "train nmt",
        "strop.tasks.translation",
        _TRANSLATION,
        (
            Training("multi30k", "multi30k", {}, "nmt-luong", "nmt-luong"),
            Training(
                "iwslt14-de-en",
                "iwslt14-de-en",
                {"nr-random": ("", "28.13"), "nr-st": ("", "27.54"), "nr-rh-st": ("", "28.46")},
                "nmt-luong",
            ),
            Training(
                "iwslt15-en-vi",
                "iwslt15-en-vi",
                {"nr-random": ("", "25.26"), "nr-st": ("", "26.08"), "nr-rh-st": ("", "26.20")},
                "nmt-luong",
            ),
        ),
    ),
    Table(
        "tagging",
        "train ner",
        "strop.tasks.tagging",
        _TAGGING,
        (
            Training(
                "conll2003",
                "targer",
                {
                    "nr-random": ("97.57", "89.29", "89.23", "89.26"),
                    "nr-st": ("97.67", "89.86", "89.46", "89.32"),
                    "nr-rh-st": ("97.64", "89.34", "89.64", "89.49"),
                },
                layers="ner-bilstm",
                steps="ner-targer",
                seeds=3,
            ),
        ),
    ),
)


def folder_name(data: str, preset: str, dropout: str, seed: int) -> str:
    """What a run, and the file of its learning curve, is called."""
    return f"{data}-{preset}-{dropout}-{seed}"
