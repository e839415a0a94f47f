"""The build backend: scikit-build-core, told where the environment's own torch lies.

pip builds in an environment of its own, which sees nothing of the user's. A torch among the build
requirements would be downloaded a second time, CUDA and all, only for its headers. So the torch that strop
will run with is looked for first, in the environment that pip installs into, and torch is required for the
build only where there is none. ``STROP_TORCH`` names the folder of a torch to build with."""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

OLDEST = (2, 10)
_REQUIREMENT = "torch>=" + ".".join(map(str, OLDEST))
_HEADER = Path("include/torch/csrc/stable/library.h")

Settings = dict[str, Any] | None


def find_torch() -> Path | None:
    """The folder of the torch package to build with; None if there is none that is new enough.

    Raises:
        FileNotFoundError: ``STROP_TORCH`` names a folder without such a torch.
    """
    named = os.environ.get("STROP_TORCH")
    if named:
        for folder in (Path(named), Path(named, "torch")):
            if suits(folder):
                return folder
        raise FileNotFoundError(f"STROP_TORCH={named}: no {_REQUIREMENT} with its headers there")
    return next((folder for folder in _candidates() if suits(folder)), None)


def _candidates() -> Iterator[Path]:
    # Without isolation torch can be imported, wherever it lies.
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent
    # In an isolated build the interpreter is still the target environment's: only sys.path lacks its
    # packages.
    folders = [sysconfig.get_paths()["platlib"], sysconfig.get_paths()["purelib"]]
    with suppress(OSError):
        if "include-system-site-packages = true" in Path(sys.prefix, "pyvenv.cfg").read_text().lower():
            folders += site.getsitepackages([sys.base_prefix])
    folders.append(site.getusersitepackages())
    # Other front ends build in a virtual environment of their own: the active one is the user's.
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := os.environ.get(variable):
            folders += site.getsitepackages([prefix])
    for folder in dict.fromkeys(folders):
        yield Path(folder, "torch")


def suits(folder: Path) -> bool:
    """Whether a torch that is new enough lies there, with the headers of its stable ABI."""
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"__version__\s*=\s*['\"](\d+)\.(\d+)", text)
    return found is not None and tuple(map(int, found.groups())) >= OLDEST and (folder / _HEADER).is_file()


def _backend() -> Any:
    from scikit_build_core import build

    return build


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    return _backend().get_requires_for_build_sdist(config_settings)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    return _backend().build_sdist(sdist_directory, config_settings)


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return _with_torch(_backend().get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return _with_torch(_backend().get_requires_for_build_editable(config_settings))


def _with_torch(requirements: list[str]) -> list[str]:
    return requirements if find_torch() is not None else [*requirements, _REQUIREMENT]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    return _backend().prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Settings = None) -> str:
    return _backend().prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    name = _backend().build_wheel(wheel_directory, _located(config_settings), metadata_directory)
    return _noticed(wheel_directory, name)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    name = _backend().build_editable(wheel_directory, _located(config_settings), metadata_directory)
    return _noticed(wheel_directory, name)


def _located(settings: Settings) -> dict[str, Any]:
    torch = find_torch()
    return {**({} if torch is None else {"cmake.define.TORCH_ROOT": torch.as_posix()}), **(settings or {})}


def _noticed(folder: str, name: str) -> str:
    """`name`, after a word about kernels that are not in that wheel."""
    with zipfile.ZipFile(Path(folder, name)) as wheel:
        built = any(entry.startswith("strop/_native") for entry in wheel.namelist())
    if not built:
        if find_torch() is None:
            why, remedy = f"no {_REQUIREMENT} was found", "install torch first"
        else:
            why = "no C++ compiler was found"
            remedy = "install one (Debian: apt install g++; macOS: xcode-select --install)"
        _tell(
            f"strop: built WITHOUT its native kernels, as {why}. It works, at the speed of plain PyTorch.\n"
            f"strop: for the kernels, {remedy}, then:\n"
            "strop: pip install --force-reinstall --no-deps --no-cache-dir .\n"
            "strop: --no-cache-dir, since pip may have kept this slow wheel in its cache."
        )
    return name


def _tell(message: str) -> None:
    """Says it on the terminal too: what a build prints, pip shows with -v alone."""
    print(message, file=sys.stderr, flush=True)
    with suppress(OSError), open("/dev/tty", "w", encoding="utf-8") as terminal:
        print(f"\n{message}", file=terminal)
