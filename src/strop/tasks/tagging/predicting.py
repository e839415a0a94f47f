"""Tags for sentences: what evaluation and the command `strop tag` have in common."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from strop.data.schemes import Scheme
from strop.tasks.files import check_files
from strop.tasks.tagging.encoding import Vocabularies
from strop.tasks.tagging.model import Tagger
from strop.tasks.tagging.presets import Preset
from strop.training import CheckpointError, RunFolderError, read_trained

#: The file of a run's folder that holds the vocabularies.
VOCABULARIES = "vocabulary.json"
# Sentences that are tagged side by side.
_TOGETHER = 128


@torch.no_grad()
def predict(
    model: Tagger,
    vocabularies: Vocabularies,
    sentences: Sequence[Sequence[str]],
    scheme: Scheme,
    device: torch.device | str = "cpu",
) -> list[list[str]]:
    """The most probable tags of each sentence, none of them empty. `model` is used in the mode it is in."""
    encoded = vocabularies.encode(sentences)
    tags: list[list[str]] = [[] for _ in sentences]
    for numbers in _by_length(encoded.lengths):
        batch = encoded.batch(numbers, device)
        for number, path in zip(batch.order.tolist(), model.decode(batch), strict=True):
            tags[number] = vocabularies.decode(path, scheme)
    return tags


def load_tagger(folder: Path, device: torch.device | str = "cpu") -> tuple[Tagger, Vocabularies]:
    """The best model of a run so far, in evaluation mode, and its vocabularies.

    Raises RunFolderError or CheckpointError if `folder` holds no run of `strop train ner`.
    """
    trained = read_trained(folder)
    if trained.identity.get("task") != "tagging":
        raise RunFolderError(f"{folder}: not a run of strop train ner")
    check_files(folder)
    file = folder / VOCABULARIES
    try:
        vocabularies = Vocabularies.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be read ({error.strerror}); the model needs it") from error
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{file}: damaged ({error}); restore it from a copy") from error
    # The epochs are no part of a model.
    model = Tagger.of(
        vocabularies, Preset(**trained.identity["preset"], epochs=1), trained.identity["dropout"]
    )
    try:
        model.load_state_dict(trained.weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: does not belong to the weights beside it ({error})") from error
    return model.to(device).eval(), vocabularies


def _by_length(lengths: torch.Tensor) -> Iterator[torch.Tensor]:
    if len(lengths):  # split() makes an empty part of nothing
        yield from lengths.argsort(stable=True).split(_TOGETHER)
