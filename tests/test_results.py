"""benchmarks/: what was trained becomes the tables of docs/results.md."""

import csv
import json
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def collect(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("plan", "collect", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import collect

    return collect


def run(path: Path, *, valid=86.0, test=83.0, step=100.0, epochs=39, finished=True, **options) -> Path:
    path.mkdir(parents=True)
    given = {"preset": "zaremba-medium", "dropout": "nr-rh-st", "seed": 0, "threads": 2, **options}
    measures = {"metric": "perplexity", "goal": "min", "items": "words"}
    description = {"command": "train lm", "options": given, "measures": measures}
    (path / "run.json").write_text(json.dumps(description))
    (path / "curve.csv").write_text(
        f"step,epoch,train_seconds,words,rate,valid_perplexity\n10,1.0,9.0,100,1.0,{valid + 9}\n"
        f"390,{epochs},7200.0,3900,1.0,{valid}\n"
    )
    if finished:
        result = {"test": {"perplexity": test}, "phase_ms": {"step": step}}
        (path / "result.json").write_text(json.dumps(result))
    return path


def table(collect, rows, results: Path) -> dict[tuple[str, str], dict[str, str]]:
    made = collect.summary(next(t for t in sys.modules["plan"].TABLES if t.name == "language"), rows, results)
    return {(row["preset"], row["dropout"]): row for row in made}


def test_runs_become_rows_and_what_was_not_run_is_named(collect, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    folders = [
        run(tmp_path / "a", valid=86.0, test=83.0, step=50.0),
        run(tmp_path / "b", valid=87.0, test=84.0, step=50.0, seed=1),
        run(tmp_path / "c", valid=10.0, seed=2, epochs=3, finished=False),
        run(tmp_path / "d", dropout="nr-random", step=90.0, epochs=20),
        run(tmp_path / "e", valid=1.0, rate=0.5),
        run(tmp_path / "f", valid=1.0, bf16=True),  # another training; where it was captured is not
        run(tmp_path / "g", valid=85.0, test=82.0, step=50.0, seed=3, capture=False),
    ]
    rows = table(collect, collect.collect(folders, "ptb", results), results)
    own = rows["zaremba-medium", "nr-rh-st"]
    assert (own["valid perplexity"], own["test perplexity"]) == ("86.00 ± 1.00", "83.00 ± 1.00")
    assert (own["paper's valid perplexity"], own["paper's test perplexity"]) == ("83.64", "80.84")
    assert (own["epochs"], own["hours"], own["step"]) == ("39 of 39", "2.0", "1.80x")
    base = rows["zaremba-medium", "nr-random"]
    assert (base["valid perplexity"], base["epochs"], base["step"]) == ("86.00", "20 of 39", "1.00x")
    absent = rows["awd-lstm", "nr-random"]
    assert (absent["epochs"], absent["valid perplexity"]) == ("not run", "")
    assert absent["paper's test perplexity"] == "61.21"


def test_the_overview_says_what_was_trained_and_how_far(collect, tmp_path):
    folders = [
        run(tmp_path / "a", test=83.0, step=50.0),
        run(tmp_path / "b", test=84.0, dropout="nr-random", step=90.0, epochs=20),
    ]

    def overview() -> dict[str, str]:
        collect.write_tables(collect.collect(folders, "ptb", tmp_path), tmp_path, tmp_path)
        with (tmp_path / "overview.csv").open(newline="") as stream:
            (row,) = csv.DictReader(stream)
        return row

    expected = {
        "command": "`train lm --preset zaremba-medium`",
        "data": "ptb",
        "figure": "test perplexity",
        "nr-random": "84.00 (20 of 39 epochs)",
        "nr-st": "not run",
        "nr-rh-st": "83.00",
        "step": "1.80x",
    }
    assert overview() == expected
    folders.append(run(tmp_path / "c", dropout="nr-st", epochs=2, finished=False))
    assert overview() == {**expected, "nr-st": "(2 of 39 epochs)"}
    collect.write_tables([], tmp_path / "a", tmp_path)
    assert not (tmp_path / "a" / "overview.csv").exists()


def test_a_run_is_collected_once_and_unfinished_ones_have_no_test(collect, tmp_path):
    first = run(tmp_path / "first", epochs=5, finished=False)
    assert len(collect.collect([first], "ptb", tmp_path)) == 1
    row = table(collect, collect.collect([], "ptb", tmp_path), tmp_path)["zaremba-medium", "nr-rh-st"]
    assert (row["epochs"], row["valid perplexity"], row["test perplexity"]) == ("5 of 39", "86.00", "")
    rows = collect.collect([run(tmp_path / "again")], "ptb", tmp_path)
    assert len(rows) == 1
    assert table(collect, rows, tmp_path)["zaremba-medium", "nr-rh-st"]["epochs"] == "39 of 39"
    collect.write_tables(rows, tmp_path, tmp_path)
    assert (tmp_path / "results-language-zaremba-medium.png").read_bytes()[:4] == b"\x89PNG"
    with (tmp_path / "tagging.csv").open(newline="") as stream:
        assert {row["epochs"] for row in csv.DictReader(stream)} == {"not run"}


def test_trainings_go_on_where_they_were_stopped(collect, tmp_path, monkeypatch):
    import train

    runs, results = tmp_path / "runs", tmp_path / "results"
    results.mkdir()
    run(runs / "ptb-zaremba-medium-nr-random-0", test=82.0, dropout="nr-random")
    run(runs / "ptb-zaremba-medium-nr-st-0", finished=False, dropout="nr-st")
    started = {}

    def ends(words, log):
        out = Path(words[words.index("--out") + 1])
        started[out.name] = words
        if not out.exists():
            run(out, test=81.0)
        return 0

    monkeypatch.setattr(train, "train", ends)
    monkeypatch.setattr(train, "RESULTS", results)
    monkeypatch.setattr(train, "PICTURES", tmp_path)
    given = ["train.py", "ptb=TEXT", "--only", "zaremba-medium", "--runs", str(runs), "--jobs", "2"]
    monkeypatch.setattr("sys.argv", given)
    assert train.main() == 0
    assert sorted(started) == ["ptb-zaremba-medium-nr-rh-st-0", "ptb-zaremba-medium-nr-st-0"]
    assert "--resume" in started["ptb-zaremba-medium-nr-st-0"]
    fresh = " ".join(started["ptb-zaremba-medium-nr-rh-st-0"])
    assert "--preset zaremba-medium --dropout nr-rh-st --data TEXT --seed 0 --threads" in fresh
    rows = table(collect, collect.collect([], "ptb", results), results)
    assert rows["zaremba-medium", "nr-random"]["test perplexity"] == "82.00"  # finished before, and collected
    assert rows["zaremba-medium", "nr-rh-st"]["test perplexity"] == "81.00"


def test_a_training_of_fewer_epochs_goes_on_when_more_are_asked_for(collect, tmp_path):
    import train

    run(tmp_path / "ptb-zaremba-medium-nr-random-0", epochs=15)
    run(tmp_path / "ptb-zaremba-medium-nr-st-0", epochs=22, finished=False)
    run(tmp_path / "ptb-zaremba-medium-nr-rh-st-0", epochs=39)

    def left(epochs=None):
        found = train.planned({"ptb": "TEXT"}, tmp_path, "zaremba-medium", epochs=epochs)
        return {
            out.name.split("-medium-")[1]: words[-3:] for _, out, words, complete in found if not complete
        }

    more = ["--resume", "--epochs", "39"]
    assert left() == left(50) == {"nr-random-0": more, "nr-st-0": more}
    assert left(15) == {}  # none is trained less than that, and none can be trained back
    assert left(22) == {
        "nr-random-0": ["--resume", "--epochs", "22"],
        "nr-st-0": ["--resume", "--epochs", "22"],
    }
    fresh = next(train.planned({"ptb": "TEXT"}, tmp_path / "none", "medium-nr-random", epochs=15))
    assert fresh[2][-2:] == ["--epochs", "15"]


def test_no_training_begins_after_one_that_failed(collect, tmp_path, monkeypatch):
    import train

    started = []
    monkeypatch.setattr(train, "train", lambda words, log: started.append(words) or 3)
    monkeypatch.setattr("sys.argv", ["train.py", "ptb=TEXT", "--runs", str(tmp_path)])
    assert train.main() == 3
    assert len(started) < 9
    assert not list(train.planned({}, tmp_path, ""))


def test_what_goes_into_an_archive_leaves_the_tables_alone(tmp_path, monkeypatch):
    import train

    run(tmp_path / "runs" / "ptb-zaremba-medium-nr-st-0", epochs=39)
    monkeypatch.setattr(train, "write_tables", None)
    monkeypatch.setattr(train, "train", lambda words, log: 0)
    archive = tmp_path / "runs.tgz"
    line = ["train.py", "ptb=TEXT", "--only", "medium-nr-st", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", [*line, "--archive", str(archive)])
    assert train.main() == 0
    with tarfile.open(archive) as packed:
        assert any(name.endswith("curve.csv") for name in packed.getnames())


def test_trainings_on_a_gpu(tmp_path):
    import train

    run(tmp_path / "ptb-zaremba-medium-nr-random-0")
    on_gpu = list(train.planned({"ptb": "TEXT"}, tmp_path, "zaremba-", ("nr-rh-st", "nr-random"), "cuda"))
    assert [out.name for _, out, *_ in on_gpu] == [
        f"ptb-zaremba-{size}-{dropout}-0"
        for size in ("medium", "large")
        for dropout in ("nr-rh-st", "nr-random")
    ]
    assert all(words[-2:] == ["--device", "cuda"] for _, _, words, _ in on_gpu)
