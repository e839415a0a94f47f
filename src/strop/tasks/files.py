"""The files that a run keeps for whoever uses what was trained."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from strop.training import DESCRIPTION, LoopOptions, LoopSettings, RunFolderError, read_description


def with_digests(description: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The description of a run that keeps `files`, for `check_files` to compare with later."""
    digests = {name: sha256(text.encode()).hexdigest() for name, text in files.items()}
    return {**description, "files": digests}


def check_files(folder: Path) -> None:
    """Raises RunFolderError if a file that the run in `folder` keeps is not the one that it wrote.

    A folder without `run.json`, or one of a version that kept no digests, has nothing to compare with.
    """
    if not (folder / DESCRIPTION).is_file():
        return
    digests = read_description(folder).get("files", {})
    if not isinstance(digests, dict):
        raise RunFolderError(f"{folder / DESCRIPTION}: not a run's description (files: {digests!r})")
    for name, digest in digests.items():
        file = folder / name
        if file.is_file() and sha256(file.read_bytes()).hexdigest() != digest:
            raise RunFolderError(
                f"{file}: not the file that the run wrote and its weights need; restore it from a copy"
            )


def loop_options(
    out: Path, preset: Any, seed: int, files: Mapping[str, str], settings: LoopSettings
) -> LoopOptions:
    """The loop's options for a training from Python: epochs and clipping are the preset's."""
    return LoopOptions(
        out,
        epochs=preset.epochs,
        seed=seed,
        clip=preset.clip,
        description=with_digests({}, files),
        files=files,
        **settings,
    )
