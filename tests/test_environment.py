"""The environment that `make` builds: the torch in it, and what is said before one is downloaded."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import environment  # noqa: E402
import strop_build  # noqa: E402

HOME = str(Path(torch.__file__).parents[1])


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A virtual environment that is there already, and the commands that would have changed it."""
    commands = []
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(environment.subprocess, "check_output", lambda *_, **__: f"{tmp_path / 'site'}\n")
    monkeypatch.setattr(environment.subprocess, "call", lambda words: commands.append(words) or 0)
    return tmp_path, commands


def test_an_old_python_is_refused_before_anything_is_made(made, monkeypatch, capsys):
    folder, commands = made
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    assert environment.main(str(folder), "torch") == 2
    assert "Python 3.11 or newer is needed" in capsys.readouterr().out
    assert commands == []


def test_the_torch_of_the_python_that_makes_it_is_used_where_it_lies(made, capsys):
    folder, commands = made
    assert environment.main(str(folder), "torch") == 0
    assert (folder / "site" / environment.LINK).read_text() == f"{HOME}\n"
    assert f"using the torch in {HOME}" in capsys.readouterr().out
    assert commands == []
    assert environment.main(str(folder), "torch") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("options", "warned"), [((), True), (("--index-url", "URL"), False)])
def test_a_download_is_told_with_its_size_before_it_begins(made, options, warned, monkeypatch, capsys):
    folder, commands = made
    said = []
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(
        environment.subprocess,
        "call",
        lambda words: said.append(capsys.readouterr().out) or commands.append(words) or 0,
    )
    assert environment.main(str(folder), "torch==2.13.0", *options) == 0
    assert ("3 GB to download" in said[0] and "make TORCH_INDEX=URL demo" in said[0]) is warned
    assert commands[0][-1 - len(options) :] == ["torch==2.13.0", *options]


def test_a_build_needs_no_torch_of_its_own_where_one_is_found(monkeypatch):
    assert strop_build.find_torch() is not None
    assert strop_build.get_requires_for_build_wheel().count("torch>=2.10") == 0
    monkeypatch.setattr(strop_build, "find_torch", lambda: None)
    assert strop_build.get_requires_for_build_wheel().count("torch>=2.10") == 1


def test_a_named_torch_must_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv("STROP_TORCH", str(Path(torch.__file__).parent))
    assert strop_build.find_torch() == Path(torch.__file__).parent
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.9.1'\n")
    monkeypatch.setenv("STROP_TORCH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no torch>=2\.10 with its headers there"):
        strop_build.find_torch()


def test_the_demo_says_beforehand_how_long_and_how_much_it_takes():
    made = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 0 < made.find("the demo takes at most 6 minutes and 1 GB of memory") < made.find("/strop demo")
