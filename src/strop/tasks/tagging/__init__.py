"""Tagging words with the entities they are part of: BiLSTM-CNN-CRF with three kinds of dropout."""

from strop.tasks.tagging.model import Tagger
from strop.tasks.tagging.predict import load_tagger, predict
from strop.tasks.tagging.presets import DROPOUTS, PRESETS, Dropout, Preset, PresetName
from strop.tasks.tagging.task import TaggingTask
from strop.tasks.tagging.train import Options, run, train_tagger

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
