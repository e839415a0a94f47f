"""Tagging words with the entities they are part of: BiLSTM-CNN-CRF with three kinds of dropout."""

from typing import TYPE_CHECKING

from strop.lazy import lazily

if TYPE_CHECKING:
    from strop.tasks.tagging.model import Tagger
    from strop.tasks.tagging.options import Options
    from strop.tasks.tagging.predicting import load_tagger, predict
    from strop.tasks.tagging.presets import DROPOUTS, PRESETS, Dropout, Preset, PresetName
    from strop.tasks.tagging.task import TaggingTask
    from strop.tasks.tagging.train import run, train_tagger

__all__ = [
    "DROPOUTS",
    "PRESETS",
    "Dropout",
    "Options",
    "Preset",
    "PresetName",
    "Tagger",
    "TaggingTask",
    "load_tagger",
    "predict",
    "run",
    "train_tagger",
]

__getattr__ = lazily(
    __name__,
    {
        "strop.tasks.tagging.model": ("Tagger",),
        "strop.tasks.tagging.predicting": (
            "load_tagger",
            "predict",
        ),
        "strop.tasks.tagging.presets": (
            "DROPOUTS",
            "PRESETS",
            "Dropout",
            "Preset",
            "PresetName",
        ),
        "strop.tasks.tagging.task": ("TaggingTask",),
        "strop.tasks.tagging.options": ("Options",),
        "strop.tasks.tagging.train": (
            "run",
            "train_tagger",
        ),
    },
)
