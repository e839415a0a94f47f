"""The native code is for more than one compiler: it was built by one, and another looks at it here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strop.ops import native

ROOT = Path(__file__).parents[2]
TOOLS = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
CLANG, CMAKE, NINJA = (shutil.which(tool, path=TOOLS) for tool in ("clang++", "cmake", "ninja"))


WARNINGS_AS_ERRORS = "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"
BUILDS = pytest.mark.skipif(
    native.missing is not None or None in (CMAKE, NINJA), reason="needs a C++ compiler, cmake and ninja"
)


def configure(folder: Path, *options: str) -> str:
    """Configures a build in ``folder``; what CMake says."""
    command = [str(CMAKE), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options]
    tools = [f"-DCMAKE_MAKE_PROGRAM={NINJA}", f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run([*command, *tools], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stderr.split())


@BUILDS
def test_warnings_are_errors_only_if_asked_for(tmp_path):
    for name, options in (("plain", ()), ("strict", (WARNINGS_AS_ERRORS,))):
        configure(tmp_path / name, *options)
        commands = json.loads((tmp_path / name / "compile_commands.json").read_text())
        assert {"-Werror" in each["command"].split() for each in commands} == {name == "strict"}


@BUILDS
@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (["-DCMAKE_CXX_COMPILER_ID=NVHPC"], "written for GCC and Clang, not NVHPC; installing without them"),
        (
            ["-DCMAKE_CXX_COMPILER_ID=GNU", "-DCMAKE_CXX_COMPILER_VERSION=7.5.0"],
            "GNU 7.5.0 does not know C++20; installing without the native kernels",
        ),
    ],
    ids=["another", "old"],
)
def test_what_another_compiler_cannot_build_is_left_out(tmp_path, compiler, message):
    said = configure(
        tmp_path, *compiler, "-DCMAKE_CXX_COMPILER_ID_RUN=TRUE", "-DCMAKE_CXX_COMPILER_FORCED=ON"
    )
    assert message in said
    built = subprocess.run([str(CMAKE), "--build", str(tmp_path)], capture_output=True, timeout=120)
    assert built.returncode == 0
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")
@pytest.mark.skipif(None in (CLANG, CMAKE, NINJA), reason="needs clang++, cmake and ninja")
def test_clang_takes_every_source_without_a_warning(tmp_path):
    configure(tmp_path, f"-DCMAKE_CXX_COMPILER={CLANG}", WARNINGS_AS_ERRORS)
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    sources = {Path(each["file"]).name for each in commands}
    assert {"products.cpp", "recurrence.cpp", "kernels.cpp"} <= sources

    def faults(entry: dict[str, str]) -> str:
        arguments = [*shlex.split(entry["command"]), "-fsyntax-only"]
        done = subprocess.run(arguments, cwd=entry["directory"], capture_output=True, text=True, timeout=120)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        assert "".join(pool.map(faults, commands)) == ""
