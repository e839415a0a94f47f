"""A run's folder: who may use it, and what lies where."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from strop.training import safe
from strop.training.checkpoint import CheckpointStore
from strop.training.curves import read_curve
from strop.training.errors import CheckpointError, RunFolderError
from strop.training.files import write_atomically, writing

_LOCK, _CHECKPOINTS = ".lock", "checkpoints"
#: The file in a run's folder that says how the run was started.
DESCRIPTION = "run.json"
#: The file in a finished run's folder that says what came of it.
RESULT = "result.json"


class RunFolder:
    """Opened by one process at a time.

    With `resume` the folder must hold a run, without it must be new or empty, so that no run is ever
    overwritten. Raises RunFolderError, before any training, where that does not hold, where the folder
    cannot be written, or where another process has it open.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self._lock: int | None = None
        safe.failure()  # if it is not installed, now, not at the first checkpoint
        try:
            if resume:
                self._expect_run()
            else:
                self._expect_nothing()
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            write_atomically(path / ".writable", "")
            (path / ".writable").unlink()
        except OSError as error:
            self.close()
            raise RunFolderError(
                f"{path}: cannot be written ({error.strerror}); name another folder"
            ) from error
        self._hold()

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.path / _CHECKPOINTS)

    @property
    def curve(self) -> Path:
        return self.path / "curve.csv"

    def describe(self, description: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Writes `run.json`, how the run was started, and `files`, texts by name."""
        with writing(self.path, RunFolderError):
            # First: with it alone the run can be resumed, with others alone neither that nor started.
            write_atomically(self.path / DESCRIPTION, json.dumps(description, indent=1) + "\n")
            for name, text in files.items():
                write_atomically(self.path / name, text)

    def report(self, result: Mapping[str, Any]) -> None:
        """Writes `result.json`: what came of the run."""
        with writing(self.path, RunFolderError):
            write_atomically(self.path / RESULT, json.dumps(result, indent=1) + "\n")

    def forget_report(self) -> None:
        """Removes `result.json`: the run is trained further, so it is no longer what came of it."""
        with writing(self.path, RunFolderError):
            (self.path / RESULT).unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _expect_run(self) -> None:
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path}: no run to resume there")
        names = self._names()
        if names and not names & {DESCRIPTION, _CHECKPOINTS}:
            raise RunFolderError(f"{self.path}: not a run's folder (no {DESCRIPTION}); nothing was changed")
        # The first evaluation is followed by a checkpoint.
        evaluated = len(read_curve(self.curve)) if self.curve.exists() else 0
        if self.checkpoints.latest() is None and (evaluated > 1 or RESULT in names):
            raise CheckpointError(
                f"{self.path / _CHECKPOINTS}: no checkpoint there, but the run was trained; restore the "
                "folder from a copy, or start afresh in another folder (--out)"
            )

    def _expect_nothing(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path}: a file; name a folder for the run")
        if self.path.is_dir() and self._names():
            raise RunFolderError(
                f"{self.path}: not empty; resume the run in it (--resume) or name another folder (--out)"
            )

    def _names(self) -> set[str]:
        return {entry.name for entry in self.path.iterdir()} - {_LOCK, ".writable"}

    def _hold(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise RunFolderError(
                f"{self.path}: another process is training there; wait or stop it"
            ) from error


@dataclass(frozen=True)
class Trained:
    """What a run has learnt so far.

    Attributes:
        identity: what the task said that it is: model, data, …
        weights: the best `state_dict`, by the valid metric.
        metrics: step, epoch and metrics of these weights.
    """

    identity: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    metrics: Mapping[str, float]


def read_trained(path: Path) -> Trained:
    """The best weights of the run in `path`, finished or not. Raises RunFolderError or CheckpointError."""
    store = CheckpointStore(path / _CHECKPOINTS)
    found = store.sound()
    if found is None:
        raise RunFolderError(f"{path}: no trained model there (no checkpoint); name the folder of a run")
    _, saved, _ = found
    if saved.best_step is None:
        raise RunFolderError(f"{path}: no trained model there yet; train on, to the first evaluation")
    return Trained(saved.identity, store.load_best(saved.best_step), saved.progress["best"])


def read_description(path: Path) -> dict[str, Any]:
    """What `RunFolder.describe` wrote: `path` is a run's folder or the file. Raises RunFolderError."""
    file = path if path.is_file() else path / DESCRIPTION
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{path}: no run there ({DESCRIPTION}: {error.strerror})") from error
    except ValueError as error:
        raise RunFolderError(f"{file}: damaged ({error})") from error
    if not isinstance(description, dict):
        raise RunFolderError(f"{file}: not a run's description")
    return description
