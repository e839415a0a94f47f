import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from strop import cli
from strop.data.text import load_corpus
from strop.demo.racers import EVALUATIONS, Racer, race, shortened
from strop.demo.report import Report
from strop.tasks.language import DROPOUTS, ZAREMBA, train_language
from strop.training import NonFiniteError, Silent

TINY = replace(ZAREMBA["small"], units=8, steps=5, batch=4, p=0.25, epochs=2)
FILES = {"curves.csv", "perplexity.png", "report.json", "report.md"}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    sentences = ["the cat sat on the mat", "a dog ate the cat", "the mat is flat", "dogs sat"]
    for split, times in (("train", 30), ("valid", 4), ("test", 4)):
        (folder / f"toy.{split}.txt").write_text("\n".join(sentences * times) + "\n")
    return folder


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(ZAREMBA, "small", TINY)


class Lines(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def later(seconds: float = 120) -> float:
    return time.monotonic() + seconds


def test_it_ends_with_a_table_and_writes_a_report(text, tiny, tmp_path, capsys):
    out = tmp_path / "runs" / "demo"
    for _ in range(2):  # the second replaces the first
        assert cli.main(["demo", "--data", str(text), "--out", str(out)]) == 0
    assert {entry.name for entry in out.iterdir()} == FILES
    lines = json.loads((out / "report.json").read_text())
    assert [line["dropout"] for line in lines] == list(DROPOUTS)
    for line in lines:
        assert set(line) == {
            "dropout",
            "valid_ppl",
            "test_ppl",
            "valid_ppl_equal_time",
            "ms_per_step",
            "tokens_per_s",
            "speedup_vs_torch",
        }
        assert all(value > 0 for name, value in line.items() if name != "dropout")
        assert line["tokens_per_s"] * line["ms_per_step"] == pytest.approx(TINY.steps * TINY.batch * 1e3)
        assert line["speedup_vs_torch"] * line["ms_per_step"] == pytest.approx(lines[0]["ms_per_step"])
    report = (out / "report.md").read_text()
    printed = capsys.readouterr().out
    for line in lines:
        for name in ("valid_ppl", "test_ppl", "valid_ppl_equal_time"):
            assert f"{line[name]:.1f}" in report
            assert f"{line[name]:.1f}" in printed
    for word in ("forward", "backward", "optimiser", "after 2 epochs"):
        assert word in report
        assert word in printed
    assert "(perplexity.png)" in report
    assert (out / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    with (out / "curves.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(DROPOUTS) * (1 + EVALUATIONS * TINY.epochs)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_taking_turns_changes_no_training(dropout, text, tmp_path):
    corpus = load_corpus(text)
    alone = train_language(
        corpus, TINY, dropout, tmp_path / "run", seed=3, evaluations=EVALUATIONS, tensorboard=False
    )
    racers = race(corpus, TINY, 3, later(), Silent())
    rows = next(racer for racer in racers if racer.dropout == dropout).rows
    assert [(row["step"], row["valid_perplexity"]) for row in rows[1:]] == [
        (row["step"], row["valid_perplexity"]) for row in alone.rows
    ]


def test_all_begin_with_the_same_model(text):
    racers = race(load_corpus(text), replace(TINY, epochs=1), 0, later(), Silent())
    first = {racer.rows[0]["valid_perplexity"] for racer in racers}
    assert max(first) == pytest.approx(min(first), rel=1e-5)
    assert all(racer.rows[0]["step"] == 0 == racer.rows[0]["train_seconds"] for racer in racers)


def test_fewer_epochs_where_there_is_no_time_for_all(text):
    said = Lines()
    epochs = 100_000
    racers = race(load_corpus(text), replace(TINY, epochs=epochs), 0, later(3), said)
    assert len({racer.step for racer in racers}) == 1
    assert 0 < racers[0].step < epochs * racers[0].steps_per_epoch
    assert {racer.rows[-1]["step"] for racer in racers} == {racers[0].step}
    planned = re.search(r"(\d+) epochs? of", said.said[0])
    assert planned is not None
    assert 1 <= int(planned[1]) < epochs


def test_a_shorter_training_lowers_its_rate_as_long_before_the_end():
    preset = replace(TINY, epochs=5, decay_after=2)
    assert shortened(preset, 4) == replace(preset, epochs=4, decay_after=1)
    assert shortened(preset, 1) == replace(preset, epochs=1, decay_after=0)
    assert shortened(preset, 5) == preset


def test_a_machine_that_becomes_slow_stops_all_at_the_same_step(text):
    said = Lines()
    racers = race(load_corpus(text), TINY, 0, later(0), said)
    assert len({racer.step for racer in racers}) == 1
    assert racers[0].step < TINY.epochs * racers[0].steps_per_epoch
    assert any("time is running out" in line for line in said.said)
    assert all(math.isfinite(racer.test) for racer in racers)


def test_equal_time_is_when_the_fastest_was_done(text):
    corpus = load_corpus(text)
    racers = [Racer(corpus, TINY, dropout, 0) for dropout in DROPOUTS]
    for racer, seconds in zip(racers, (8.0, 6.0, 4.0), strict=True):
        racer.advance(1)
        racer.clock.seconds = dict.fromkeys(racer.clock.seconds, seconds / 4)
        racer.rows = [
            {"step": i, "epoch": i / 2, "train_seconds": seconds * i / 2, "valid_perplexity": 100.0 - 10 * i}
            for i in range(3)
        ]
        racer.test = 75.0
    report = Report.of(racers, TINY, "text", 1.0, [])
    assert report.seconds == 4
    # 4 s are half of 8 s and two thirds of 6 s.
    assert [line.valid_ppl_equal_time for line in report.lines] == pytest.approx([90, 100 - 40 / 3, 80])
    assert [line.valid_ppl for line in report.lines] == [80, 80, 80]
    assert "nr-rh-st is at valid perplexity 80.0 and nr-random at 90.0 (-11.1%)" in report.verdict()
    assert "(+0.0%)" in report.verdict()


def test_a_useless_model_stops_it(text):
    racer = Racer(load_corpus(text), replace(TINY, rate=1e6, clip=1e6), "nr-st", 0)
    racer.advance(20)
    with pytest.raises(NonFiniteError, match="nr-st, step 20: the valid perplexity is"):
        racer.evaluate()


@pytest.mark.parametrize("names", [["thesis.tex"], ["report.md"], ["curves.csv", "notes.txt"]])
def test_a_folder_with_something_else_is_left_alone(names, text, tiny, tmp_path, capsys):
    for name in names:
        (tmp_path / name).write_text("precious")
    assert cli.main(["demo", "--data", str(text), "--out", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == dict.fromkeys(names, "precious")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "FILE"], "out: FILE cannot be written"),
        (["--out", "FILE/demo"], "out: FILE/demo cannot be written"),
        (["--minutes", "0"], "minutes: 0.0; a time above 0"),
        (["--threads", "0"], "threads: 0; at least 1"),
        (["--data", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_a_users_mistake_is_one_clear_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    assert cli.main(["demo", *words]) == 2
    errors = capsys.readouterr().err
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_ctrl_c_ends_it_in_one_line(text, tmp_path):
    # Tests that run in a shell's background were started with SIGINT ignored, and so would be their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "strop", "demo", "--data", str(text), "--out", str(tmp_path / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    for _ in range(3):  # that PyTorch is loaded, how long it takes, what the text is; training follows
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("strop: interrupted")
    assert "Traceback" not in errors
    assert not list((tmp_path / "demo").iterdir())
