"""Whether a checkpoint is of the run that wants to go on with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strop.training.errors import CheckpointError


def expect_same(
    path: Path, saved: Mapping[str, Any], now: Mapping[str, Any], description: Mapping[str, Any]
) -> None:
    """Raises CheckpointError, naming what differs between the identity in `path` and that of `now`.

    Of `data`, a checksum, it tells the places that are among the options in `description`.
    """
    before, after = _settings(saved), _settings(json.loads(json.dumps(now)))
    if "threads" not in before:  # a checkpoint older than this entry
        after.pop("threads", None)
    differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if len(differing) > 1:
        differing.discard("steps_per_epoch")  # follows from the others
    settings = ", ".join(
        f"{name}: {before.get(name)!r} there, {after.get(name)!r} now"
        for name in sorted(differing - {"data"})
    )
    wrong, remedies = [settings] if settings else [], ["give these settings as there"] if settings else []
    if "data" in differing:
        wrong.append(f"data: not what the run was trained on{_places(description)}")
        remedies.append("bring that data back")
    if wrong:
        raise CheckpointError(
            f"{path}: of another run ({'; '.join(wrong)}); nothing was changed; {' and '.join(remedies)}, "
            "or start afresh in another folder (--out)"
        )


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The single settings, those of a preset by their own names."""
    settings: dict[str, Any] = {}
    for name, value in identity.items():
        settings.update(value if isinstance(value, Mapping) else {name: value})
    return settings


def _places(description: Mapping[str, Any]) -> str:
    """Files and folders among a command's options, which are absolute."""
    options = description.get("options")
    values = options.values() if isinstance(options, Mapping) else ()
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    places = [each for each in flat if isinstance(each, str) and Path(each).is_absolute()]
    return f": {', '.join(places)}" if places else ""
