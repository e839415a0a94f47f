"""Installs strop in the ways that docs/install.md names, and trains a step with it from another folder.

    python tools/check_install.py [WAY ...]      isolated, wheel; all without arguments

`make` itself is the third way, which this Python's environment comes from. The other two get an environment
of their own, with the torch of this one and nothing else of it. Needs the package index for the tools of an
isolated build; where that cannot be reached, the way is passed over, and told."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = Path(sysconfig.get_paths()["purelib"])
# What is strop's own, or builds it.
LEFT_OUT = ("strop", "_strop", "_editable_skbc_strop", "__editable__", "scikit_build_core", "cmake", "ninja")
STEP = """
import torch, strop
from strop.ops import native
assert native.missing is None, native.missing
lstm = strop.LSTM(8, 16, num_layers=2, dropout=0.5, recurrent_dropout=0.5)
y, _ = lstm(torch.randn(5, 3, 8))
y.sum().backward()
torch.optim.SGD(lstm.parameters(), 0.1).step()
print(f"strop {strop.__version__} in {strop.__path__[0]}, torch {torch.__version__}, {native.describe()}")
"""


def environment(folder: Path) -> Path:
    """The Python of a new virtual environment that has the packages of this one, strop excepted."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for entry in HERE.iterdir():
        if not entry.name.startswith(LEFT_OUT) and not (site / entry.name).exists():
            if entry.is_dir():
                shutil.copytree(entry, site / entry.name, copy_function=_link, symlinks=True)
            else:
                _link(entry, site / entry.name)
    return folder / "bin" / "python"


def _link(source: object, target: object) -> None:
    try:
        os.link(str(source), str(target))
    except OSError:  # another disk
        shutil.copy2(str(source), str(target))


def pip(python: Path, *words: str) -> str:
    """What pip prints. Raises RuntimeError, with that."""
    done = subprocess.run([python, "-m", "pip", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def isolated(folder: Path) -> None:
    """`pip install .`, with build isolation, beside a torch: no second one is downloaded."""
    python = environment(folder / "isolated")
    said = pip(python, "install", "--verbose", "--no-cache-dir", ".")
    fetched = [line.strip() for line in said.splitlines() if "Downloading" in line or "Using cached" in line]
    if large := [line for line in fetched if "torch-" in line or "nvidia" in line]:
        raise RuntimeError(f"downloaded beside the torch that was there: {large}")
    step(python, folder)


def wheel(folder: Path) -> None:
    """A wheel, in an environment that has torch alone."""
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), ".")
    python = environment(folder / "wheel")
    (built,) = folder.glob("strop-*.whl")
    pip(python, "install", "--no-index", "--no-deps", str(built))
    step(python, folder)


def step(python: Path, folder: Path) -> None:
    subprocess.run([python, "-c", STEP], cwd=folder, check=True, env=_bare())
    for words in (["--version"], ["train", "lm", "--help"]):
        subprocess.run(
            [python, "-m", "strop", *words], cwd=folder, check=True, env=_bare(), stdout=subprocess.DEVNULL
        )


def _bare() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def reachable() -> bool:
    """Whether the package index answers pip."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["download", "--quiet", "--no-deps", "--dest", folder, "scikit-build-core"]
        return subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True).returncode == 0


def main() -> int:
    ways = {"isolated": isolated, "wheel": wheel}
    for name in sys.argv[1:] or ways:
        if name == "isolated" and not reachable():
            print("check-install: isolated: passed over, as the package index cannot be reached")
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"check-install: {name}", flush=True)
            ways[name](Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
