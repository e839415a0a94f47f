"""Word-level language modelling as in Zaremba et al. (2014), with three kinds of dropout."""

from strop.tasks.language.model import LanguageModel
from strop.tasks.language.presets import DROPOUTS, PRESETS, Dropout, Preset, PresetName
from strop.tasks.language.task import LanguageTask, perplexity
from strop.tasks.language.train import Options, run, train_language

__all__ = [
    "DROPOUTS",
    "PRESETS",
    "Dropout",
    "LanguageModel",
    "LanguageTask",
    "Options",
    "Preset",
    "PresetName",
    "perplexity",
    "run",
    "train_language",
]
