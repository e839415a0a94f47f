"""benchmarks/gpu/call.py: each of the calls, rehearsed without a GPU."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

CALL = Path(__file__).parents[2] / "benchmarks" / "gpu" / "call.py"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal is for where there is no GPU"),
]


def call(number: int, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(CALL), str(number), "--out", str(out), *more]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.iterdir())) <= 8
    return done


def test_the_first_finds_out_what_works(tmp_path):
    told = call(1, tmp_path).stdout
    for name in ("persistent", "on-chip", "capture", "steps"):
        assert f"call: {name}: well" in told
    decisions = json.loads((tmp_path / "decisions.json").read_text())
    assert decisions["capture"] is True
    assert "recurrence" not in decisions
    with (tmp_path / "steps.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["impl"] for row in rows] == ["torch", "nr-rh-st"]
    assert not any(row["error"] for row in rows)


def test_the_second_measures(tmp_path):
    decisions = tmp_path / "decided.json"
    decisions.write_text(json.dumps({"recurrence": "steps"}))
    assert "call: gpu: well" in call(2, tmp_path / "out", "--decisions", str(decisions)).stdout
    assert (tmp_path / "out" / "gpu.csv").exists()


def test_the_third_trains(tmp_path):
    data = tmp_path / "ptb"
    data.mkdir()
    for part in ("train", "valid", "test"):
        (data / f"{part}.txt").write_text(" ".join(f"w{i % 7}" for i in range(20 * 36 + 1)) + "\n")
    told = call(3, tmp_path / "out", "--ptb", str(data)).stdout
    assert "call: train: well" in told
    with tarfile.open(tmp_path / "out" / "runs.tgz") as archive:
        assert {Path(name).name for name in archive.getnames()} >= {"curve.csv", "run.json", "result.json"}


def test_the_fourth_uses_what_tools_there_are(tmp_path):
    call(4, tmp_path)
    assert (tmp_path / "decisions.json").exists()
