"""Machine translation as in Luong et al. (2015), with three kinds of dropout."""

from typing import TYPE_CHECKING

from strop.lazy import lazily

if TYPE_CHECKING:
    from strop.tasks.language.presets import DROPOUTS, Dropout
    from strop.tasks.translation.model import TranslationModel
    from strop.tasks.translation.options import Options
    from strop.tasks.translation.presets import DATA_SETS, PRESETS, DataSet, Preset, PresetName
    from strop.tasks.translation.task import TranslationTask, bleu, perplexity
    from strop.tasks.translation.train import run, train_translation
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

__getattr__ = lazily(
    __name__,
    {
        "strop.tasks.language.presets": (
            "DROPOUTS",
            "Dropout",
        ),
        "strop.tasks.translation.model": ("TranslationModel",),
        "strop.tasks.translation.presets": (
            "DATA_SETS",
            "PRESETS",
            "DataSet",
            "Preset",
            "PresetName",
        ),
        "strop.tasks.translation.task": (
            "TranslationTask",
            "bleu",
            "perplexity",
        ),
        "strop.tasks.translation.options": ("Options",),
        "strop.tasks.translation.train": (
            "run",
            "train_translation",
        ),
        "strop.tasks.translation.translate": ("Translator",),
    },
)
