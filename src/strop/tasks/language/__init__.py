"""Word-level language modelling as in Zaremba et al. (2014) and Merity et al. (2017), with three kinds of
dropout."""

from strop.tasks.language.awd import AwdModel
from strop.tasks.language.model import LanguageModel
from strop.tasks.language.presets import (
    AWD,
    DROPOUTS,
    PRESETS,
    ZAREMBA,
    AwdPreset,
    Dropout,
    Preset,
    PresetName,
)
from strop.tasks.language.task import LanguageTask, perplexity
from strop.tasks.language.train import Options, load, run, train_language

__all__ = [
    "AWD",
    "DROPOUTS",
    "PRESETS",
    "ZAREMBA",
    "AwdModel",
    "AwdPreset",
    "Dropout",
    "LanguageModel",
    "LanguageTask",
    "Options",
    "Preset",
    "PresetName",
    "load",
    "perplexity",
    "run",
    "train_language",
]
