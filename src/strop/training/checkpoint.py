"""Checkpoints: folders that appear whole by one rename, prove their content by checksums, and run no code.

    checkpoints/000012-step-4523/   manifest.json, {weights,optimizer,rank-0,…}.safetensors
    checkpoints/best-step-4000/     manifest.json, weights.safetensors

A folder is written under a hidden name, synced and renamed; older ones go only after that. So a process
killed at any instant leaves the newest complete checkpoint loadable. The one before it is kept too, and its
best
weights: should the disk damage the newest, the run goes on from there.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from strop.training import safe, tree
from strop.training.errors import CheckpointError
from strop.training.files import sync, writing

_FORMAT, _VERSION = "strop checkpoint", 1
_MANIFEST, _WEIGHTS = "manifest.json", "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_SERIAL = re.compile(r"(\d{6,})-step-\d+")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        weights: the model's `state_dict`.
        optimizer: the optimiser's `state_dict`.
        ranks: per process its carry and generators: nested state, see `tree`, as bytes when it is saved.
        progress: counters and clocks, JSON.
        identity: what the run is (model, data, seed …), JSON; a run of another identity may not resume it.
        best_step: the step whose weights `save_best` kept, if any.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Any
    ranks: list[Any]
    progress: Mapping[str, Any]
    identity: Mapping[str, Any]
    best_step: int | None = None


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run, in `folder`; the two newest are kept, and the best weights of both."""

    folder: Path

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(iter(self._newest_first()), None)

    def sound(self) -> tuple[Path, Checkpoint, CheckpointError | None] | None:
        """The newest complete checkpoint whose files are what was written, and its content; None if there
        is none.

        The error is what is wrong with the newest where this is an older one. Raises it where no other is
        sound."""
        wrong: CheckpointError | None = None
        for path in self._newest_first():
            try:
                saved = self.load(path)
                if saved.best_step is not None:
                    self.verify_best(saved.best_step)
            except CheckpointError as error:
                wrong = wrong or error
            else:
                return path, saved, wrong
        if wrong is not None:
            raise wrong
        return None

    def _newest_first(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [entry for entry in self.folder.iterdir() if _SERIAL.fullmatch(entry.name)]
        return sorted(found, key=_serial, reverse=True)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes `checkpoint`, then removes all but it and the one before. Raises CheckpointError for a
        full disk."""
        latest = self.latest()
        serial = _serial(latest) + 1 if latest else 0
        content = {
            "kind": "run",
            "step": checkpoint.step,
            "progress": dict(checkpoint.progress),
            "identity": dict(checkpoint.identity),
            "best_step": checkpoint.best_step,
            "processes": len(checkpoint.ranks),
        }
        files = {_OPTIMIZER: tree.to_bytes(checkpoint.optimizer)}
        files |= {f"rank-{i}.safetensors": state for i, state in enumerate(checkpoint.ranks)}
        with writing(self.folder, CheckpointError):
            path = self._write(f"{serial:06d}-step-{checkpoint.step}", content, checkpoint.weights, files)
            self._prune(path)
        return path

    def load(self, path: Path) -> Checkpoint:
        """Reads and verifies. Raises CheckpointError for anything damaged or foreign; changes nothing."""
        content = self._verify(path, "run")
        try:
            return Checkpoint(
                step=content["step"],
                weights=_read_weights(path),
                optimizer=tree.from_file(path / _OPTIMIZER),
                ranks=[tree.from_file(path / f"rank-{i}.safetensors") for i in range(content["processes"])],
                progress=content["progress"],
                identity=content["identity"],
                best_step=content["best_step"],
            )
        except (KeyError, ValueError, TypeError, OSError, safe.failure()) as error:
            raise CheckpointError(f"{path}: not a checkpoint that this version can read ({error})") from error

    def save_best(self, step: int, weights: Mapping[str, Tensor], metrics: Mapping[str, float]) -> Path:
        """Keeps `weights` as the best so far; they stay until a checkpoint names others.

        Raises CheckpointError if the disk is full.
        """
        path = self.folder / _best_name(step)
        content = {"kind": "best", "step": step, "metrics": dict(metrics)}
        with writing(self.folder, CheckpointError):
            if path.exists():
                self._discard(path)
            return self._write(path.name, content, weights, {})

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights kept at `step`. Raises CheckpointError if they are damaged or gone."""
        path = self.folder / _best_name(step)
        self._verify(path, "best")
        return _read_weights(path)

    def verify_best(self, step: int) -> None:
        """Raises CheckpointError if the weights kept at `step` are damaged or gone."""
        self._verify(self.folder / _best_name(step), "best")

    def keep_only(self, checkpoint: Path) -> None:
        """Removes what a killed process left behind beside `checkpoint` and the one before it."""
        with writing(self.folder, CheckpointError):
            self._prune(checkpoint)

    def _write(
        self, name: str, content: dict[str, Any], weights: Mapping[str, Tensor], files: Mapping[str, bytes]
    ) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".writing-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            self._fill(partial, content, weights, files)
        except (OSError, safe.failure()):
            shutil.rmtree(partial, ignore_errors=True)  # of a full disk it takes the most
            raise
        path = self.folder / name
        os.rename(partial, path)
        sync(self.folder)
        return path

    @staticmethod
    def _fill(
        partial: Path, content: dict[str, Any], weights: Mapping[str, Tensor], files: Mapping[str, bytes]
    ) -> None:
        safe.save(_separate(weights), partial / _WEIGHTS)
        for file, data in files.items():
            (partial / file).write_bytes(data)
        manifest = {"format": _FORMAT, "version": _VERSION, "content": content}
        manifest["files"] = {entry.name: _digest(entry) for entry in sorted(partial.iterdir())}
        manifest["sha256"] = _manifest_digest(manifest)
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for entry in partial.iterdir():
            sync(entry)
        sync(partial)

    def _verify(self, path: Path, kind: str) -> dict[str, Any]:
        remedy = "restore it from a copy, or start afresh in another folder"
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
        except OSError as error:
            raise CheckpointError(
                f"{path}: not a checkpoint ({_MANIFEST}: {error.strerror}); {remedy}"
            ) from error
        except ValueError as error:
            raise CheckpointError(f"{path}: damaged ({_MANIFEST} is not JSON: {error}); {remedy}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: not a strop checkpoint; nothing was changed")
        if manifest.get("version") != _VERSION:
            raise CheckpointError(
                f"{path}: checkpoint format {manifest.get('version')!r}; this strop reads format {_VERSION}"
            )
        if manifest.get("sha256") != _manifest_digest(manifest):
            raise CheckpointError(f"{path}: damaged ({_MANIFEST} fails its checksum); {remedy}")
        for name, expected in manifest["files"].items():
            try:
                actual = _digest(path / name)
            except OSError as error:
                raise CheckpointError(f"{path}: damaged ({name}: {error.strerror}); {remedy}") from error
            if actual != expected:
                raise CheckpointError(f"{path}: damaged ({name} fails its checksum); {remedy}")
        if manifest["content"]["kind"] != kind:
            raise CheckpointError(f"{path}: holds a {manifest['content']['kind']!r}, not a {kind!r}")
        return manifest["content"]

    def _prune(self, newest: Path) -> None:
        older = [path for path in self._newest_first() if _serial(path) < _serial(newest)]
        kept = [newest, *older[:1]]
        keep = {path.name for path in kept} | {_best_name(_best_step(path)) for path in kept}
        for entry in self.folder.iterdir():
            if entry.name not in keep and (
                entry.name.startswith((".writing-", ".old-", "best-step-")) or _SERIAL.fullmatch(entry.name)
            ):
                self._discard(entry)

    def _discard(self, path: Path) -> None:
        """Removes a folder; hidden first, so that it is never seen in part."""
        hidden = path if path.name.startswith(".") else path.with_name(f".old-{path.name}")
        if hidden != path:
            shutil.rmtree(hidden, ignore_errors=True)
            os.rename(path, hidden)
        shutil.rmtree(hidden)


def _serial(path: Path) -> int:
    return int(path.name.split("-", 1)[0])


def _best_step(path: Path) -> int | None:
    """Of a checkpoint, damaged or not."""
    try:
        return json.loads((path / _MANIFEST).read_bytes())["content"]["best_step"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _best_name(step: int | None) -> str:
    return f"best-step-{step}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory: tied weights are stored under each of their names."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return separate


def _read_weights(path: Path) -> dict[str, Tensor]:
    return safe.load(path / _WEIGHTS)
