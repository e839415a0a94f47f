import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strop import cli
from strop.training.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    sentences = ["the cat sat on the mat", "a dog ate the cat", "the mat is flat", "dogs sat"]
    for split, times in (("train", 60), ("valid", 4), ("test", 4)):
        (folder / f"toy.{split}.txt").write_text("\n".join(sentences * times) + "\n")
    return folder


def arguments(text: Path, out: Path, *more: str) -> list[str]:
    small = ["--units", "8", "--steps", "5", "--batch", "4", "--threads", "1", "--no-tensorboard"]
    return ["train", "lm", "--data", str(text), "--out", str(out), "--epochs", "2", *small, *more]


def last(out: Path):
    store = CheckpointStore(out / "checkpoints")
    return store.load(store.latest())


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("words", [[], ["--help"], ["train"], ["train", "--help"], ["bench", "-h"]])
def test_help_lists_the_commands(words, capsys):
    status = cli.main(words)
    out, errors = capsys.readouterr()
    assert status == (2 if words == ["train"] else 0)
    assert "strop" in out + errors
    if words[:1] != ["bench"]:
        assert "train lm" in out + errors


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit(cli.main([]))",  # written when all is done
        "cli._run = lambda *_: print('x', flush=True); sys.exit(cli.main(['report']))",
    ],
)
def test_who_reads_the_output_may_stop_early(program):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as nobody:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; from strop import cli; {program}"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_the_version_is_told(word, monkeypatch, capsys):
    monkeypatch.setattr("strop.version.__version__", "1.2.3")
    assert cli.main([word]) == 0
    assert capsys.readouterr().out == "strop 1.2.3\n"


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["trian", "lm"], "strop train lm"),
        (["train", "ml"], "strop train lm"),
        (["trainlm", "--units", "9"], "strop train lm"),
        (["reprot"], "strop report"),
        (["bench", "layers"], "strop bench layer"),
    ],
)
def test_what_was_meant_is_suggested_in_one_line(words, suggested, capsys):
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no such command: strop {' '.join(words)}; did you mean: {suggested}?" in line


@pytest.mark.parametrize(
    ("words", "typed"), [(["help", "trian"], "trian"), (["train lm"], "'train lm'"), ([""], "''")]
)
def test_what_was_typed_is_repeated_as_it_was_typed(words, typed, capsys):
    assert cli.main(words) == 2
    assert f"no such command: strop {typed}; " in capsys.readouterr().err


def test_help_is_a_command_too(capsys):
    assert cli.main(["help"]) == 0
    assert "train lm" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(["help", "train", "ner"])
    assert ended.value.code == 0
    assert "usage: strop train ner" in capsys.readouterr().out


HELP = [
    ["--version"],
    ["--help"],
    ["train"],
    *([*name, "--help"] for name in cli._COMMANDS if name[0] not in ("bench", "hardware")),
]


def test_version_and_help_load_no_torch():
    program = f"""
import contextlib, io, sys
from strop import cli
for words in {HELP!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        cli.main(words)
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "preset", [("lm", "zaremba-large", "1500"), ("nmt", "multi30k", "512"), ("ner", "ma-hovy", "200")]
)
def test_help_of_a_training_shows_the_values_of_its_presets(preset, monkeypatch, capsys):
    task, name, units = preset
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["train", task, "--help"])
    out = capsys.readouterr().out
    header, *rows = [line for line in out.splitlines() if line.startswith("  ")]
    column = header.split().index(name)
    values = {
        row.split()[0]: row.split()[1 + column] for row in rows if len(row.split()) == 1 + len(header.split())
    }
    assert values["units"] == units
    assert {"layers", "batch", "rate", "epochs", "p"} <= values.keys() | {"layers"}
    assert "goes before" not in out
    assert "(default: None)" not in out
    assert all(title in out for title in ("task options", "run options", "machine options", "preset options"))
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--units", "abc"], "'abc'"), (["--init", "x"], "'x'"), (["--seed", "1.5"], "'1.5'")],
)
def test_a_word_in_place_of_a_number_is_no_riddle(words, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "lm", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "NoneType" not in error
    assert "{None}" not in error


def test_too_little_text_is_named(text, tmp_path, capsys):
    for preset in (["--batch", "5000"], ["--batch", "400", "--steps", "200"]):
        assert cli.main(arguments(text, tmp_path / "run", *preset)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"strop: {text}, training text: ")
        assert "too few" in error


def test_a_commands_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "lm", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("zaremba-medium", "nr-rh-st", "torchrun", "--resume", "perplexity"):
        assert word in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "no such command: strop fly; strop --help lists the commands"),
        (["train"], "incomplete command: strop train"),
        (["train", "lm", "--data", "/nowhere"], "/nowhere: no such folder"),
        (["train", "lm", "--data", ""], "--data: empty; give a value, or leave it out"),
        (["train", "lm", "--out="], "--out: empty; give a value, or leave it out"),
        (["report", ""], "argument: empty; give a value, or leave it out"),
        (["train", "lm", "--p", "1.5"], r"p: 1.5; it must be in [0, 1)"),
        (["train", "lm", "--decay", "0.5"], "decay: 0.5; it must be at least 1"),
        (["train", "lm", "--threads", "0"], "threads: 0"),
        (["train", "ner", "--data", "/nowhere", "--log-steps", "-1"], "log_steps: -1; 0 or more is needed"),
        (["train", "lm", "--data", "/nowhere", "--patience", "0"], "patience: 0; at least 1 is needed"),
        (["train", "lm", "--device", "abacus"], "device: 'abacus'"),
        (["train", "lm", "--resume", "--out", "/nowhere/run"], "/nowhere/run: no run there"),
        (["train", "lm", "--init", "inf"], "init: inf; it must be a number"),
        (["train", "lm", "--init", "1e39", "--preset", "awd-lstm"], "init: 1e+39; it must be a number"),
        (["train", "lm", "--layers", "100000000"], "layers: 100000000; at most 1,000"),
        (["train", "lm", "--units", str(10**20)], f"units: {10**20}; at most 100,000"),
        (["train", "lm", "--batch", str(10**20)], f"batch: {10**20}; at most 2,147,483,647"),
        (["advise", "--hidden-size", "1000000000"], "hidden_size: 1000000000; at most 100,000"),
        (["train", "lm", "--seed", str(10**20)], f"seed: {10**20}; at most 9,223,372,036,854,775,807"),
        (["train", "lm", "--threads", str(10**13)], f"threads: {10**13}; at most 1,024"),
        (["train", "lm", "--device", "meta"], "device: 'meta' cannot be used here"),
        (["train", "nmt", "--init", "inf"], "init: inf; it must be a number"),
        (["train", "nmt", "--beam", str(10**12)], f"beam: {10**12}; at most 10,000"),
        (["train", "ner", "--rate", "inf"], "rate: inf; it must be a number"),
        (["demo", "--seed", str(10**20)], f"seed: {10**20}; at most"),
        (["demo", "--minutes", "inf"], "minutes: inf; a finite time"),
        (["advise", "--device", "meta"], "device: 'meta' cannot be used here"),
        (["advise", "--seconds", "nan"], "seconds: nan; a finite time of at least 0"),
        (["bench", "layer", "--seconds", "-1"], "seconds: -1.0; a finite time of at least 0"),
        (["convert-check", "a.py:f", "--seconds", "inf"], "seconds: inf; a finite time of at least 0"),
    ],
)
def test_a_users_mistake_is_one_clear_line(words, message, capsys):
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("STROP_ISA", "nothing", "STROP_ISA=nothing is not available"),
        ("STROP_BACKEND", "nothing", "backend must be one of reference, native, triton, got 'nothing'"),
        ("STROP_BACKEND", "triton", "backend 'triton' was asked for and cannot run: "),
    ],
)
def test_a_backend_that_cannot_run_is_one_clear_line(variable, value, message, text, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "strop", *arguments(text, tmp_path / "run")],
        env={**os.environ, variable: value, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", [(2**50,), (2**40, 2**20), (2**40, 2**40), None], ids=str)
def test_what_no_memory_holds_is_one_clear_line(shape, monkeypatch, capsys):
    import strop.tasks.language

    def greedy(options):
        if shape is None:
            raise MemoryError
        torch.empty(shape)

    monkeypatch.setattr(strop.tasks.language, "run", greedy)
    assert cli.main(["train", "lm"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("strop: not enough memory; smaller sizes")


def test_sizes_that_no_memory_holds_are_one_clear_line(capsys):
    # More than an address can name.
    assert cli.main(["advise", "--input-size", "100000", "--batch", "2000000000"]) == 2
    assert "not enough memory" in capsys.readouterr().err.splitlines()[-1]


def test_training_reports_and_resumes_with_the_options_it_was_started_with(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(arguments(text, out, "--dropout", "nr-st", "--tied")) == 0
    printed = capsys.readouterr().out
    assert "test perplexity" in printed
    assert "median ms per step" in printed
    assert "words/s" in printed
    assert json.loads((out / "run.json").read_text())["options"]["dropout"] == "nr-st"
    first = json.loads((out / "result.json").read_text())
    assert cli.main(["train", "lm", "--out", str(out), "--resume", "--epochs", "3"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == first["steps"] // 2 * 3
    assert cli.main(["train", "lm", "--out", str(out), "--resume", "--seed", "9"]) == 2
    assert "seed: 0 there, 9 now" in capsys.readouterr().err
    assert cli.main(arguments(text, out)) == 2
    assert "not empty" in capsys.readouterr().err


def test_config_repeats_a_run_exactly_but_for_what_is_given(text, tmp_path, capsys):
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    assert cli.main(arguments(text, first, "--dropout", "nr-st", "--seed", "5")) == 0
    assert cli.main(["train", "lm", "--config", str(first), "--out", str(again)]) == 0
    assert all(torch.equal(a, b) for a, b in zip(*map(weights, (first, again)), strict=True))
    config = str(first / "run.json")
    assert cli.main(["train", "lm", "--config", config, "--out", str(other), "--seed", "6"]) == 0
    assert not all(torch.equal(a, b) for a, b in zip(*map(weights, (first, other)), strict=True))
    assert json.loads((other / "run.json").read_text())["options"]["dropout"] == "nr-st"
    assert cli.main(["train", "lm", "--config", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "no run there" in capsys.readouterr().err


def weights(out: Path) -> list[torch.Tensor]:
    return list(last(out).weights.values())


def test_an_unwritable_folder_is_refused_before_training(text, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(arguments(text, tmp_path / "file" / "run")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_of_another_kind_is_not_resumed(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"command": "other"}')
    assert cli.main(["train", "lm", "--resume", "--out", str(tmp_path)]) == 2
    assert "not a run of strop train lm" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert cli.main(["train", "lm"]) == 2
    error = capsys.readouterr().err
    assert "tyro is not installed; the commands need: pip install" in error
    assert "'tyro>=" in error
    assert cli.main(["--help"]) == 0


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    import strop.tasks.language

    def broken(options):
        raise AssertionError("ours")

    monkeypatch.setattr(strop.tasks.language, "run", broken)
    with pytest.raises(AssertionError):
        cli.main(["train", "lm"])


def test_ctrl_c_saves_and_says_how_to_resume(text, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "strop", *arguments(text, out, "--epochs", "100000")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1.00"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].endswith(f"to go on: strop train lm --out {out} --resume")
    assert f"stopped at step {last(out).step} of" in errors


def test_two_processes_train_the_language_model_that_one_trains(text, tmp_path):
    assert cli.main(arguments(text, tmp_path / "one", "--p", "0")) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "strop", *arguments(text, tmp_path / "two", "--p", "0")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test perplexity") == 1
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    assert len(two.ranks) == 2
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_a_command_that_wants_another_environment_starts_anew(monkeypatch):
    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(path, words, environment):
        started.append((words, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("STROP_ISA", raising=False)
    with pytest.raises(SystemExit):
        cli.main(["bench", "layer", "--isa", "avx2", "--seconds", "0"])
    ((words, environment),) = started
    assert words[1:] == ["-m", "strop", "bench", "layer", "--isa", "avx2", "--seconds", "0"]
    assert environment["STROP_ISA"] == "avx2"
    assert environment["ONEDNN_MAX_CPU_ISA"] == environment["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    assert environment.keys() >= os.environ.keys()
