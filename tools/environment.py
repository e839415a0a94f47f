"""Makes the virtual environment of `make`, with a torch in it: the one that this Python has, else pip's.

    python3 tools/environment.py VENV TORCH [option of pip for it ...]

Understood by old versions of Python too, which it refuses.
"""

import importlib.util
import os
import subprocess
import sys

OLDEST_PYTHON = (3, 11)
LINK = "torch-of-another-environment.pth"


def main(folder, requirement, *options):
    """The exit status."""
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        own = ".".join(map(str, sys.version_info[:3]))
        say(f"Python {needed} or newer is needed; {sys.executable} is {own}")
        say(f"name another: make PYTHON=python{needed} demo")
        return 2
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python) and subprocess.call([sys.executable, "-m", "venv", folder]):
        say("no virtual environment could be made (Debian: apt install python3-venv)")
        return 2
    site_packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], universal_newlines=True
    ).strip()
    if suits(os.path.join(site_packages, "torch")) or os.path.exists(os.path.join(site_packages, LINK)):
        return 0
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin and suits(os.path.dirname(spec.origin)):
        home = os.path.dirname(os.path.dirname(spec.origin))
        with open(os.path.join(site_packages, LINK), "w") as link:
            link.write(home + "\n")
        say(f"using the torch in {home}")
        return 0
    if not options and sys.platform == "linux":
        say(f"pip gets {requirement} now. On Linux PyPI's build is the one for CUDA: 3 GB to download,")
        say("7 GB of disk, many minutes. PyTorch's build for CPUs alone is 200 MB. For it stop this (Ctrl-C)")
        say('and give its index, which "Get started" on pytorch.org names: make TORCH_INDEX=URL demo')
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    return subprocess.call([*pip, requirement, *options])


def suits(torch):
    """Whether a torch lies there that is as new as the build wants it."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import strop_build

    return strop_build.suits(strop_build.Path(torch))


def say(message):
    print("make: " + message, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
