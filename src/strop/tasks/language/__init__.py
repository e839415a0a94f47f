"""Word-level language modelling as in Zaremba et al. (2014) and Merity et al. (2017), with three kinds of
dropout."""

from typing import TYPE_CHECKING

from strop.lazy import lazily

if TYPE_CHECKING:
    from strop.tasks.language.awd import AwdModel
    from strop.tasks.language.model import LanguageModel
    from strop.tasks.language.options import Options
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
    from strop.tasks.language.train import load, run, train_language

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

__getattr__ = lazily(
    __name__,
    {
        "strop.tasks.language.awd": ("AwdModel",),
        "strop.tasks.language.model": ("LanguageModel",),
        "strop.tasks.language.presets": (
            "AWD",
            "DROPOUTS",
            "PRESETS",
            "ZAREMBA",
            "AwdPreset",
            "Dropout",
            "Preset",
            "PresetName",
        ),
        "strop.tasks.language.task": (
            "LanguageTask",
            "perplexity",
        ),
        "strop.tasks.language.options": ("Options",),
        "strop.tasks.language.train": (
            "load",
            "run",
            "train_language",
        ),
    },
)
