"""Training a translation model end to end, and translating with it."""

import io
import json
import math
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from strop import cli
from strop.data.parallel import ParallelCorpus, load_parallel
from strop.data.text import DataError
from strop.tasks.translation import (
    DATA_SETS,
    DROPOUTS,
    PRESETS,
    Options,
    Preset,
    TranslationTask,
    Translator,
    bleu,
    perplexity,
    train_translation,
)
from strop.tasks.translation.task import cross_entropy
from strop.training import CheckpointError, RunError, RunFolderError, World, read_curve, read_trained

TINY = Preset(units=32, layers=2, batch=8, p=0.1, init=0.3, rate=0.5, epochs=10, max_length=8)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[list[Path], list[Path]]:
    """Sentences in letters, and as their translations the same backwards in capitals."""
    folder = tmp_path_factory.mktemp("letters")
    draw = random.Random(0)
    sources, targets = [], []
    for split, count in (("train", 240), ("valid", 24), ("test", 24)):
        lines = [[draw.choice("abcd") for _ in range(draw.randint(2, 5))] for _ in range(count)]
        if split == "train":
            lines.append(["a"] * 9)
        sources.append(folder / f"{split}.letters")
        targets.append(folder / f"{split}.capitals")
        sources[-1].write_text("".join(" ".join(line) + "\n" for line in lines))
        targets[-1].write_text("".join(" ".join(line[::-1]).upper() + "\n" for line in lines))
    return sources, targets


@pytest.fixture(scope="module")
def corpus(texts) -> ParallelCorpus:
    return load_parallel(*texts, max_length=TINY.max_length)


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory) -> Path:
    """The folder of a run of the command."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(arguments(texts, out, "--epochs", "10", "--dropout", "nr-rh-st")) == 0
    return out


def arguments(texts, out: Path, *more: str) -> list[str]:
    sources, targets = ([str(file) for file in files] for files in texts)
    small = ["--units", "32", "--layers", "1", "--batch", "8", "--p", "0.1", "--init", "0.3"]
    small += ["--rate", "0.7", "--decay-after", "6"]
    small += ["--max-length", "8", "--threads", "1", "--no-tensorboard"]
    return ["train", "nmt", "--src", *sources, "--tgt", *targets, "--out", str(out), *small, *more]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_presets_are_those_of_the_papers():
    luong = PRESETS["luong"]
    assert (luong.units, luong.layers, luong.batch, luong.p, luong.max_size) == (512, 2, 64, 0.3, 50_000)
    assert (luong.rate, luong.clip, luong.init, luong.max_length) == (1.0, 5.0, 0.1, 50)
    for name, pairs in (("iwslt15-en-vi", 133_000), ("iwslt14-de-en", 153_000)):
        preset = PRESETS[name]
        steps = -(-pairs // 64) * preset.epochs
        assert steps == pytest.approx(65_000, rel=0.02)
        assert preset.decay == 2.0


def test_a_spoilt_model_has_a_perplexity_that_is_no_number(corpus):
    task = TranslationTask(corpus, TINY, "nr-st")
    with torch.no_grad():
        task.model.output.bias.fill_(torch.nan)
    assert all(math.isnan(value) for value in task.evaluate("valid").values())


def test_the_rate_is_halved_as_the_preset_says(corpus):
    task = TranslationTask(corpus, replace(TINY, decay_after=1, decay_every=2), "nr-st")
    assert [task.schedule(epoch, 0) for epoch in range(7)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 1.0},
        {"units": 0},
        {"beam": 0},
        {"decay_after": -1},
        {"clip": -1.0},
        {"clip": 0.0},
        {"rate": 0.0},
        {"decay": 0.0},
    ],
)
def test_hyper_parameters_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY, **wrong)


def test_texts_are_named_by_files_or_by_a_data_set(tmp_path, capsys):
    files = (Path("a"), Path("b"), Path("c"))
    assert Options(src=files, tgt=files).texts() == ([*files], [*files])
    for split in ("train", "val", "test_2016_flickr"):
        for language, ending in (("en", ".gz"), ("fr", "")):
            (tmp_path / f"{split}.lc.norm.tok.{language}{ending}").touch()
    (tmp_path / "tok").mkdir()
    (tmp_path / "val.lc.norm.tok.fr").rename(tmp_path / "tok" / "val.lc.norm.tok.fr")
    sources, targets = Options(preset="multi30k", data=tmp_path, target="fr").texts()
    assert [file.name for file in sources + targets] == [
        f"{split}.lc.norm.tok.{ending}"
        for ending in ("en.gz", "fr")
        for split in ("train", "val", "test_2016_flickr")
    ]
    assert cli.main(["train", "nmt", "--src", "a", "b", "--tgt", "c", "d", "e"]) == 2
    assert "src: 2 files; three are needed: train, valid and test" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"train\.lc\.norm\.tok\.de: no such file.*multi30k/dataset"):
        Options(preset="multi30k", data=tmp_path).texts()
    for preset in DATA_SETS:
        with pytest.raises(DataError, match=r"data: name the folder.*https://"):
            Options(preset=preset).texts()
    for options in (Options(src=files), Options(src=files, tgt=files, data=tmp_path)):
        with pytest.raises(DataError, match="name both"):
            options.texts()
    with pytest.raises(DataError, match="your own text"):
        Options().texts()
    for options in (Options(src=files, tgt=files, source="xx"), Options(target="xx")):
        with pytest.raises(DataError, match=r"'xx' names a language of a data set"):
            options.texts()


def test_words_go_before_the_pieces_beside_them(texts, tmp_path, capsys):
    """As fairseq's script for IWSLT'14 leaves them."""
    (tmp_path / "tmp").mkdir()
    for language, files in zip(("de", "en"), texts, strict=True):
        for split, file in zip(("train", "valid", "test"), files, strict=True):
            text = file.read_text()
            (tmp_path / "tmp" / f"{split}.{language}").write_text(text)
            (tmp_path / f"{split}.{language}").write_text(text.replace(" ", "@@ "))
    preset = ["--preset", "iwslt14-de-en"]
    sources, targets = Options(preset="iwslt14-de-en", data=tmp_path).texts()
    assert {file.parent for file in sources + targets} == {tmp_path / "tmp"}
    (tmp_path / "tmp").rename(tmp_path / "words")
    assert cli.main(["train", "nmt", *preset, "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'train.de'}: the text is in pieces of words" in capsys.readouterr().err
    pieces = [
        [tmp_path / f"{split}.{language}" for split in ("train", "valid", "test")]
        for language in ("de", "en")
    ]
    assert cli.main(arguments(pieces, tmp_path / "run", "--epochs", "1")) == 0
    assert "BLEU and perplexity are of these" in capsys.readouterr().out


def test_the_loss_is_summed_over_words_and_averaged_over_sentences(corpus):
    task = TranslationTask(corpus, replace(TINY, p=0.0), "nr-st")
    batch = next(task.batches(0, 0))
    outcome = task.loss(task.model, batch, None)
    total = cross_entropy(task.model, batch[0])
    sentences = batch[0].source.shape[1]
    torch.testing.assert_close(outcome.loss, total / sentences)
    torch.testing.assert_close(outcome.mean, total / batch[0].words)
    assert outcome.items == batch[0].words


def test_batches_are_the_same_at_every_call_and_others_in_every_epoch(corpus):
    task = TranslationTask(corpus, TINY, "nr-random")
    assert task.steps_per_epoch == 30
    first, again = list(task.batches(0, 0)), list(task.batches(0, 3))
    assert len(first) == 30
    assert all(torch.equal(a.source, b.source) for (a, _), (b, _) in zip(first[3:], again, strict=True))
    other = next(task.batches(1, 0))[0].source
    assert other.shape != first[0][0].source.shape or not torch.equal(other, first[0][0].source)
    words = sum(len(ids) + 1 for ids in corpus.train.target)
    assert sum(batch.words for batch, _ in first) == words


def test_every_process_takes_its_part_of_each_batch(corpus):
    whole = list(TranslationTask(corpus, TINY, "nr-st").batches(0, 0))
    parts = [list(TranslationTask(corpus, TINY, "nr-st", world=World(i, 3)).batches(0, 0)) for i in range(3)]
    for (batch, sentences), *shares in zip(whole, *parts, strict=True):
        assert sum(part.words for part, _ in shares) == batch.words
        assert sum(part.source.shape[1] for part, _ in shares) == sentences == batch.source.shape[1]
        # Each divides its sum by the same number, so the mean over processes is the whole batch's mean.
        assert {share for _, share in shares} == {sentences / 3}
    with pytest.raises(RunError, match="batch: some hold 8 pairs, too few for 9 processes"):
        TranslationTask(corpus, TINY, "nr-st", world=World(0, 9))


def test_bleu_is_that_of_the_words_as_they_are():
    score, signature = bleu(["a b c d e", "f g h i"], ["a b c d e", "f g h i"])
    assert score == pytest.approx(100)
    assert "tok:none" in signature
    assert bleu(["x y z w"], ["a b c d"])[0] == 0
    assert 0 < bleu(["a b c d x ."], ["a b c d y ."])[0] < 100


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_model_learns_and_resumes_exactly(corpus, dropout, tmp_path):
    def train(out: str, epochs: int, **options):
        preset = replace(TINY, units=16, epochs=epochs)
        return train_translation(corpus, preset, dropout, tmp_path / out, tensorboard=False, **options)

    whole = train("whole", 3)
    rows = read_curve(tmp_path / "whole" / "curve.csv")
    assert rows[-1]["train_perplexity"] < 0.9 * rows[0]["train_perplexity"]
    train("run", 1)
    resumed = train("run", 3, resume=True)
    assert resumed.test == whole.test
    first, second = (read_trained(tmp_path / out).weights for out in ("whole", "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_without_progress_ends_early(corpus, tmp_path):
    still = replace(TINY, rate=1e-30, epochs=5)
    result = train_translation(corpus, still, "nr-st", tmp_path / "run", tensorboard=False, patience=1)
    assert [row["epoch"] for row in result.rows] == [1, 2]


def test_a_run_is_not_resumed_on_other_data_or_with_another_dropout(corpus, tmp_path):
    preset = replace(TINY, epochs=1)
    train_translation(corpus, preset, "nr-st", tmp_path / "run", tensorboard=False)
    other = replace(corpus, valid=replace(corpus.valid, references=["X", *corpus.valid.references[1:]]))
    with pytest.raises(CheckpointError, match="data"):
        train_translation(other, preset, "nr-st", tmp_path / "run", tensorboard=False, resume=True)
    with pytest.raises(CheckpointError, match="dropout: 'nr-st' there, 'nr-random' now"):
        train_translation(corpus, preset, "nr-random", tmp_path / "run", tensorboard=False, resume=True)


def test_the_command_learns_to_translate(trained, corpus):
    rows = read_curve(trained / "curve.csv")
    result = json.loads((trained / "result.json").read_text())
    chance, _ = bleu(corpus.test.references[1:] + corpus.test.references[:1], corpus.test.references)
    assert rows[-1]["valid_bleu"] > rows[0]["valid_bleu"]
    assert result["test"]["bleu"] > max(50, 2 * chance)
    translator = Translator(trained)
    assert result["test"]["perplexity"] == pytest.approx(perplexity(translator.model, corpus.test), rel=1e-6)
    # The figures are those of what one gets.
    texts = [" ".join(corpus.source.words[i] for i in ids) for ids in corpus.test.source]
    assert bleu(translator(texts, beam=5), corpus.test.references)[0] == pytest.approx(result["test"]["bleu"])


def test_the_command_tells_what_it_skipped_and_how_it_scores(texts, tmp_path, capsys):
    assert cli.main(arguments(texts, tmp_path / "run", "--epochs", "1")) == 0
    out = capsys.readouterr().out
    assert "1 training pairs skipped: longer than 8 words" in out
    assert re.search(r"BLEU by sacrebleu: nrefs:1\|.*tok:none", out)
    assert re.search(r"valid perplexity [\d.]+ · valid bleu [\d.]+", out)
    assert cli.main(["train", "nmt", "--out", str(tmp_path / "run"), "--resume", "--epochs", "2"]) == 0
    assert "resumed" in capsys.readouterr().out


def test_unusable_text_is_one_clear_line(texts, tmp_path, capsys):
    sources, targets = texts
    short = tmp_path / "short"
    short.write_text("A\n")
    assert cli.main(arguments((sources, [short, *targets[1:]]), tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert f"{sources[0]}, line 2: nothing stands opposite in {short}" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def translated(monkeypatch, capsys, given: bytes, *arguments: str) -> tuple[int, list[str], str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    status = cli.main(["translate", *arguments])
    out, error = capsys.readouterr()
    return status, out.splitlines(), error


@pytest.mark.parametrize("beam", ["1", "4"])
def test_translate_answers_every_line_in_order(trained, monkeypatch, capsys, beam):
    given = ["a b", "", "d c b a", "c d", "zebra", "a b"]
    stdin = "\n".join(given).encode() + b"\n"
    status, lines, _ = translated(monkeypatch, capsys, stdin, "--run", str(trained), "--beam", beam)
    assert status == 0
    assert lines == Translator(trained)(given, beam=int(beam))
    assert len(lines) == 6
    assert lines[1] == ""
    assert lines[0] == lines[5] == "B A"
    assert lines[3] == "D C"


def test_translate_refuses_what_it_cannot_use(trained, corpus, monkeypatch, capsys, tmp_path):
    run = ["--run", str(trained)]
    status, lines, error = translated(monkeypatch, capsys, b"a b\nb \xe9\n", *run)
    assert (status, lines) == (2, ["B A"])  # what came before is translated
    assert "stdin, line 2: not UTF-8 (byte 0xe9)" in error
    plain, marked = (
        translated(monkeypatch, capsys, mark + b"a b\n", *run) for mark in (b"", b"\xef\xbb\xbf")
    )
    assert plain == marked
    status, _, error = translated(monkeypatch, capsys, b"a\n", *run, "--beam", "0")
    assert status == 2
    assert "beam: 0" in error
    for option, message in [
        (["--beam", str(10**12)], "beam: 1000000000000; at most 10,000"),
        (["--batch", str(10**12)], "batch: 1000000000000; at most"),
        (["--alpha", "1e300"], "alpha: 1e+300; it must be in [0, 10]"),
        (["--alpha", "inf"], "alpha: inf; it must be in [0, 10]"),
        (["--device", "meta"], "device: 'meta' cannot be used here"),
        (["--threads", "9999999999999"], "threads: 9999999999999; at most 1,024"),
    ]:
        status, out, error = translated(monkeypatch, capsys, b"a\n", *run, *option)
        assert (status, out) == (2, [])
        assert message in error
    status, _, error = translated(monkeypatch, capsys, b"a\n", "--run", str(tmp_path / "none"))
    assert status == 2
    assert "no trained model there" in error


def test_a_translator_needs_the_vocabularies_of_its_run(corpus, tmp_path):
    preset = replace(TINY, epochs=1, units=4)
    train_translation(corpus, preset, "nr-st", tmp_path / "run", tensorboard=False)
    file = tmp_path / "run" / "target.json"
    assert len(corpus.source) == len(corpus.target)
    whole = file.read_text()
    file.write_text((tmp_path / "run" / "source.json").read_text())
    with pytest.raises(RunError, match=r"target\.json: not the file that the run wrote"):
        Translator(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()  # which knows what it wrote
    file.write_text(json.dumps(json.loads(whole)[:-1]))
    with pytest.raises(RunError, match=r"target\.json do not fit"):
        Translator(tmp_path / "run")
    file.unlink()
    with pytest.raises(DataError, match=r"target\.json: no vocabulary there"):
        Translator(tmp_path / "run")


def test_a_translator_refuses_a_run_of_another_task(monkeypatch):
    from strop.tasks.translation import translate
    from strop.training import Trained

    monkeypatch.setattr(translate, "read_trained", lambda run: Trained({"task": "language"}, {}, {}))
    with pytest.raises(RunFolderError, match="another task"):
        Translator(Path("anywhere"))
