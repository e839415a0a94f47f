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


@pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")
@pytest.mark.skipif(None in (CLANG, CMAKE, NINJA), reason="needs clang++, cmake and ninja")
def test_clang_takes_every_source_without_a_warning(tmp_path):
    compiler = [f"-DCMAKE_CXX_COMPILER={CLANG}", f"-DCMAKE_MAKE_PROGRAM={NINJA}"]
    configure = [str(CMAKE), "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", *compiler]
    subprocess.run(
        [*configure, f"-DPython_EXECUTABLE={sys.executable}"], check=True, capture_output=True, timeout=120
    )
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    sources = {Path(each["file"]).name for each in commands}
    assert {"products.cpp", "recurrence.cpp", "kernels.cpp"} <= sources

    def faults(entry: dict[str, str]) -> str:
        arguments = [*shlex.split(entry["command"]), "-fsyntax-only"]
        done = subprocess.run(arguments, cwd=entry["directory"], capture_output=True, text=True, timeout=120)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        assert "".join(pool.map(faults, commands)) == ""
