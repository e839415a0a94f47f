"""Files that are there whole or not at all, whatever instant the process or the machine dies at."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strop.training import safe
from strop.training.errors import RunError


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` by `content`: readers see the old one or the new, never a part.

    Raises OSError, naming `path`; nothing is left behind then.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def writing(place: Path, kind: type[RunError]) -> Iterator[None]:
    """Work inside writes what a run leaves in `place`; what the disk refuses is raised as `kind`."""
    try:
        yield
    except (OSError, safe.failure()) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise kind(
            f"{place}: cannot be written ({reason}); free space there or make it writable, then --resume"
        ) from error
