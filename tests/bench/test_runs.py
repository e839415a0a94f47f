import json
from pathlib import Path

import pytest

from strop import cli
from strop.bench import runs
from strop.training import RunFolderError

pytest.importorskip("matplotlib")

CURVE = """step,epoch,train_seconds,words,rate,train_perplexity,valid_perplexity
10,1.0,5.0,1000,1.0,50.0,40.0
20,2.0,10.0,2000,1.0,30.0,25.0
30,3.0,15.5,3100,1.0,20.0,26.0
"""
PHASES = {"data": 0.0, "forward": 40.0, "backward": 50.0, "optimiser": 9.5, "step": 100.0}
RESULT = {"test": {"perplexity": 24.125}, "phase_ms": PHASES}
MEASURES = {"metric": "perplexity", "goal": "min", "items": "words"}


def folder(path: Path, curve: str = CURVE, result=RESULT, measures=MEASURES) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"measures": measures} if measures else {}))
    (path / "curve.csv").write_text(curve)
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return path


def report(capsys, tmp_path: Path, *words: str) -> list[list[str]]:
    assert cli.main(["report", "--plot", str(tmp_path / "curves.png"), *words]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_runs_are_compared_in_a_table_and_drawn(tmp_path, capsys):
    base = folder(tmp_path / "base")
    fast = folder(tmp_path / "fast", result={**RESULT, "phase_ms": {**PHASES, "step": 62.5}})
    begun = folder(tmp_path / "begun", CURVE[: CURVE.index("20,2.0")], None)
    lines = report(capsys, tmp_path, str(base), str(fast), str(begun))
    table = {line[0]: line[1:] for line in lines[2:5]}
    numbers = ["25.00", "24.12", "2", "3", "0:16", "200"]
    assert table["base"] == [*numbers, "100.0", "40.00", "50.00", "9.50", "1.00x"]
    assert table["fast"] == [*numbers, "62.50", "40.00", "50.00", "9.50", "1.60x"]
    assert table["begun"] == ["unfinished", "40.00", "-", "1", "1", "0:05", "200", *["-"] * 5]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_all_that_the_test_text_was_measured_by_is_in_the_table(tmp_path, capsys):
    result = {**RESULT, "test": {"perplexity": 24.125, "bleu": 31.5}}
    folders = [folder(tmp_path / "begun", result=None), folder(tmp_path / "done", result=result)]
    _, header, begun, done, *_ = report(capsys, tmp_path, *map(str, folders))
    assert header[:7] == ["run", "valid", "perplexity", "test", "perplexity", "test", "bleu"]
    assert begun[:5] == ["begun", "unfinished", "25.00", "-", "-"]
    assert done[:4] == ["done", "25.00", "24.12", "31.50"]


def test_curves_may_be_drawn_over_epochs(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(runs, "plot_curves", lambda *arguments: drawn.append(arguments))
    report(capsys, tmp_path, str(folder(tmp_path / "a")), "--over", "epoch")
    ((curves, column, file, over),) = drawn
    assert [row["valid_perplexity"] for row in curves["a"]] == [40.0, 25.0, 26.0]
    assert (column, file, over) == ("valid_perplexity", tmp_path / "curves.png", "epoch")


def test_equal_names_are_told_apart_and_a_higher_metric_may_be_better(tmp_path, capsys):
    curve = CURVE.replace("perplexity", "f1").replace("words", "sentences")
    measures = {"metric": "f1", "goal": "max", "items": "sentences"}
    folders = [str(folder(tmp_path / name / "run", curve, None, measures)) for name in ("a", "b")]
    lines = report(capsys, tmp_path, *folders)
    assert [line[0] for line in lines[2:4]] == folders
    assert lines[2][2] == "40.00"
    assert "sentences/s" in lines[1]


def test_a_run_older_than_its_measures_is_a_language_model(tmp_path):
    run = runs.read_run(folder(tmp_path / "old", measures=None))
    assert (run.column, run.goal, run.best["epoch"]) == ("valid_perplexity", "min", 2.0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"run.json": None}, "no run there"),
        ({"curve.csv": "step,epoch\n1,1\n"}, "damaged"),
        ({"curve.csv": "step,epoch\nx,1\n"}, "damaged"),
        ({"result.json": "{"}, r"run/result.json: .*damaged"),
        ({"result.json": "[]"}, r"run/result.json: .*damaged"),
        ({"result.json": "{}"}, r"run/result.json: KeyError\('test'\); damaged, .*--resume"),
        (
            {"result.json": '{"test": [], "phase_ms": {}}'},
            r"run/result.json: test: \[\], not numbers by name",
        ),
        (
            {"result.json": '{"test": {"perplexity": "x"}, "phase_ms": {}}'},
            r"result.json: test: .*not numbers",
        ),
        ({"result.json": '{"test": {}, "phase_ms": 3}'}, r"result.json: phase_ms: 3, not numbers"),
        ({"result.json": '{"test": {}, "phase_ms": {"step": 0}}'}, "damaged"),
        ({"run.json": '{"measures": {"metric": "perplexity"}}'}, "damaged"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, files, message):
    place = folder(tmp_path / "run")
    for name, content in files.items():
        if content is None:
            (place / name).unlink()
        else:
            (place / name).write_text(content)
    with pytest.raises(RunFolderError, match=message):
        runs.read_run(place)


def test_a_file_is_no_run(tmp_path):
    place = folder(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"run/run.json: a file; name the run's folder, .*/run$"):
        runs.read_run(place / "run.json")


@pytest.mark.parametrize(("plot", "message"), [("", "a folder"), ("none/curves.png", "there is no folder")])
def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path, capsys, plot, message):
    base = folder(tmp_path / "run")
    before = sorted(tmp_path.parent.rglob("*"))
    assert cli.main(["report", str(base), "--plot", str(tmp_path / plot)]) == 2
    captured = capsys.readouterr()
    assert f"{message}" in captured.err
    assert "name a PNG file" in captured.err
    assert captured.out == ""
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_runs_of_different_tasks_are_not_compared(tmp_path, capsys):
    curve = CURVE.replace("perplexity", "bleu")
    other = folder(tmp_path / "other", curve, None, {**MEASURES, "metric": "bleu", "goal": "max"})
    assert cli.main(["report", str(folder(tmp_path / "run")), str(other)]) == 2
    assert "measured by bleu and perplexity" in capsys.readouterr().err


def test_runs_of_different_commands_are_not_compared(tmp_path, capsys):
    folders = [folder(tmp_path / name) for name in ("lm", "lm2", "program", "nmt")]
    for place, command in zip(folders, ("train lm", "train lm", None, "train nmt"), strict=True):
        (place / "run.json").write_text(json.dumps({"command": command, "measures": MEASURES}))
    lines = report(capsys, tmp_path, *map(str, folders[:3]))
    assert [line[0] for line in lines[2:5]] == ["lm", "lm2", "program"]
    assert cli.main(["report", *map(str, folders)]) == 2
    expected = f"{folders[0]} (strop train lm) and {folders[3]} (strop train nmt) are of different tasks"
    assert expected in capsys.readouterr().err


def test_runs_are_found_in_a_folder_and_in_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report"]) == 2
    assert "runs: there is no such folder here" in capsys.readouterr().err
    for name in ("a", "b", "sub/c"):
        folder(tmp_path / "runs" / name)
    (tmp_path / "runs" / "b" / "curve.csv").unlink()  # before its first evaluation
    folder(tmp_path / "runs" / "damaged", "step,epoch\nx,1\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for words in ([], ["runs"]):
        assert cli.main(["report", *words]) == 0
        out = capsys.readouterr().out
        lines = [line.split() for line in out.splitlines()]
        assert [line[0] for line in lines[2:5]] == ["a", "b", "c"]
        assert "not evaluated yet" in out
        assert "left out: runs/damaged: damaged" in out
    assert (tmp_path / "curves.png").exists()
    assert {file: file.read_bytes() for file in before} == before


def test_runs_of_several_tasks_in_a_folder_have_a_table_each(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, command in (("one", "train lm"), ("two", "train nmt")):
        place = folder(tmp_path / "runs" / name)
        (place / "run.json").write_text(json.dumps({"command": command, "measures": MEASURES}))
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out.count("strop report: 1 run") == 2
    assert (tmp_path / "curves-lm.png").exists()
    assert (tmp_path / "curves-nmt.png").exists()


def test_time_that_was_lost_is_told(tmp_path, capsys):
    place = folder(tmp_path / "run")
    result = json.loads((place / "result.json").read_text())
    (place / "result.json").write_text(json.dumps({**result, "lost_seconds": 75.0}))
    assert cli.main(["report", str(place), "--plot", str(tmp_path / "curves.png")]) == 0
    assert "run: 1:15 of" in capsys.readouterr().out
