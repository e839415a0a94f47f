"""Machine translation as in Luong et al. (2015), with three kinds of dropout."""

from strop.tasks.language.presets import DROPOUTS, Dropout
from strop.tasks.translation.model import TranslationModel
from strop.tasks.translation.presets import DATA_SETS, PRESETS, DataSet, Preset, PresetName
from strop.tasks.translation.task import TranslationTask, bleu, perplexity
from strop.tasks.translation.train import Options, run, train_translation
from strop.tasks.translation.translate import Translator

__all__ = [
    "DATA_SETS",
    "DROPOUTS",
    "PRESETS",
    "DataSet",
    "Dropout",
    "Options",
    "Preset",
    "PresetName",
    "TranslationModel",
    "TranslationTask",
    "Translator",
    "bleu",
    "perplexity",
    "run",
    "train_translation",
]
