"""Installs strop in the ways that docs/install.md names, each in an environment of its own, and trains there.

    python tools/check_install.py [WAY ...]      readme and wheel without arguments

readme      the README's own lines, from a copy of the sources: `pip install .` beside a torch, with build
            isolation, downloading no second torch; then the commands and the Python (tools/readme_lines.py)
wheel       a wheel, where there is torch alone; one training step in another folder
torch==2.10 the same wheel beside that version of torch, which pip gets from its index: up to 3 GB

`make` itself is the third way, which this Python's environment comes from. The others are given this one's
torch, and nothing else of it. Building in isolation needs the package index for its tools: where that cannot
be reached, the README's lines run with the wheel in place of their installation, and it is told.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from readme_lines import follow

ROOT = Path(__file__).parents[1]
# What make gives a built environment: nothing of it may show in another.
FOREIGN = ("PYTHONPATH", "VIRTUAL_ENV", "STROP_TORCH", "STROP_NATIVE_LIBRARY")
STEP = """
import importlib.metadata, torch, strop
from strop.ops import native
assert native.missing is None, native.missing
assert strop.__version__ == importlib.metadata.version("strop")
lstm = strop.LSTM(8, 16, num_layers=2, dropout=0.5, recurrent_dropout=0.5)
before = [parameter.detach().clone() for parameter in lstm.parameters()]
y, _ = lstm(torch.randn(5, 3, 8))
y.sum().backward()
torch.optim.SGD(lstm.parameters(), 0.1).step()
assert not any(map(torch.equal, before, lstm.parameters()))
print(f"strop {strop.__version__} in {strop.__path__[0]}, torch {torch.__version__}, {native.describe()}")
"""


class Environment:
    """A new virtual environment in `folder`.

    Args:
        like_here: requirements that get the packages of this Python's environment: nothing is downloaded.
    """

    def __init__(self, folder: Path, *like_here: str) -> None:
        self.bin = folder / "bin"
        self.variables = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.variables["PATH"] = f"{self.bin}{os.pathsep}{self.variables['PATH']}"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        for place in sorted({place for name in like_here for place in _closure(Requirement(name), set())}):
            for file in distribution(place).files or ():
                source, target = Path(str(file.locate())), site / str(file)
                if ".." not in file.parts and source.is_file() and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _link(source, target)

    def run(self, *words: object, folder: Path) -> str:
        """What a command prints, on both streams. Raises RuntimeError, with that, where it fails."""
        done = subprocess.run(
            list(map(str, words)),
            cwd=folder,
            env=self.variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def pip(self, *words: object, folder: Path = ROOT) -> str:
        return self.run(self.bin / "python", "-m", "pip", *words, folder=folder)


def _closure(wanted: Requirement, seen: set[str]) -> Iterator[str]:
    """The installed packages that `wanted` needs, by name."""
    extras = wanted.extras or {""}
    if (key := str(wanted)) in seen:
        return
    seen.add(key)
    try:
        found = distribution(wanted.name)
    except PackageNotFoundError:
        return
    if wanted.name != "strop":
        yield wanted.name
    for line in found.requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            yield from _closure(needed, seen)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def built(folder: Path) -> Path:
    """The wheel that `make wheel` leaves, built anew."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    Environment(folder / "nothing").run("make", "wheel", f"PYTHON={sys.executable}", folder=ROOT)
    (wheel,) = (ROOT / "dist").glob("strop-*.whl")
    return wheel


def wheel(folder: Path) -> None:
    there = Environment(folder / "wheel", "torch", "numpy")
    there.pip("install", "--no-index", "--no-deps", built(folder))
    step(there, folder)


def beside(requirement: str, folder: Path) -> None:
    there = Environment(folder / "other")
    there.pip("install", requirement, "numpy")
    there.pip("install", "--no-index", "--no-deps", built(folder))
    step(there, folder)


def step(there: Environment, folder: Path) -> None:
    print(there.run(there.bin / "python", "-c", STEP, folder=folder).strip(), flush=True)
    assert there.run(there.bin / "strop", "--version", folder=folder).startswith("strop ")


def readme(folder: Path) -> None:
    sources = folder / "strop"
    for name in subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    ).split("\0"):
        if name and (ROOT / name).exists():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, sources / name)
    there = Environment(folder / "own", "torch", "strop[recipes]")
    there.variables |= {"PIP_VERBOSE": "1", "PIP_NO_CACHE_DIR": "1"}
    install: Callable[[str], str] = lambda line: there.run("bash", "-ec", line, folder=sources)  # noqa: E731
    if not reachable(there):
        print("check-install: the package index cannot be reached: the wheel is installed instead")
        install = partial(_instead, there, built(folder))
    follow(sources, folder, there.variables, install)
    step(there, folder)


def _instead(there: Environment, wheel: Path, line: str) -> str:
    return there.pip("install", "--no-index", "--no-deps", "--force-reinstall", wheel)


def reachable(there: Environment) -> bool:
    """Whether the package index answers pip."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["download", "--quiet", "--no-deps", "--dest", folder, "scikit-build-core"]
        done = subprocess.run(
            [there.bin / "python", "-m", "pip", *words], env=there.variables, capture_output=True
        )
        return done.returncode == 0


def main() -> int:
    ways = {"readme": readme, "wheel": wheel}
    for name in sys.argv[1:] or ways:
        print(f"check-install: {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            ways.get(name, partial(beside, name))(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
