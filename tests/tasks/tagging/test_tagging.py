"""Training and tagging, from Python and from the command line."""

import io
import json
import sys
from dataclasses import replace

import pytest
import torch

from strop import cli
from strop.data.conll import Sentence, load_tagged
from strop.data.schemes import convert, entities
from strop.data.text import DataError
from strop.tasks.tagging import DROPOUTS, TaggingTask, load_tagger, predict, train_tagger
from strop.tasks.tagging.predicting import VOCABULARIES
from strop.training import CheckpointError, RunError, RunFolderError, World, read_curve
from strop.training.checkpoint import CheckpointStore


def last_weights(out):
    store = CheckpointStore(out / "checkpoints")
    return store.load(store.latest()).weights


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_tagger_learns_and_resumes_exactly(corpus, tiny, dropout, tmp_path):
    def train(out, epochs, **settings):
        preset = replace(tiny, epochs=epochs)
        return train_tagger(corpus, preset, dropout, out, evaluations=2, tensorboard=False, **settings)

    whole = train(tmp_path / "whole", 2)
    rows = read_curve(tmp_path / "whole" / "curve.csv")
    assert rows[-1]["train_loss"] < 0.4 * rows[0]["train_loss"]
    # Names are new, and every other word or so is one: chance finds next to nothing.
    assert rows[0]["valid_f1"] < rows[-1]["valid_f1"]
    assert whole.test["f1"] > 60
    assert whole.test.keys() == {"f1", "precision", "recall", "accuracy"}
    train(tmp_path / "run", 1)
    resumed = train(tmp_path / "run", 2, resume=True)
    assert resumed.test == whole.test
    assert [row["valid_f1"] for row in resumed.rows] == [row["valid_f1"] for row in rows]
    expected = last_weights(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in last_weights(tmp_path / "run").items())
    rounded = train(tmp_path / "bf16", 2, bf16=True)
    assert rounded.rows[0]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=0.05)
    assert rounded.test["f1"] > 60


def test_a_run_is_not_resumed_on_other_data_or_with_another_dropout(corpus, tiny, tmp_path):
    preset = replace(tiny, epochs=1)
    train_tagger(corpus, preset, "nr-random", tmp_path / "run", tensorboard=False)
    other = replace(corpus, valid=corpus.valid[:-1])
    with pytest.raises(CheckpointError, match="data"):
        train_tagger(other, preset, "nr-random", tmp_path / "run", tensorboard=False, resume=True)
    with pytest.raises(CheckpointError, match="dropout: 'nr-random' there, 'nr-st' now"):
        train_tagger(corpus, preset, "nr-st", tmp_path / "run", tensorboard=False, resume=True)


def in_scheme(corpus, scheme, folder):
    for split in ("train", "valid", "test"):
        rows = [
            "".join(f"{word} {tag}\n" for word, tag in zip(s.words, convert(s.tags, scheme), strict=True))
            for s in getattr(corpus, split)
        ]
        (folder / f"{split}.txt").write_text("\n".join(rows))
    return load_tagged(folder)


@pytest.mark.parametrize(("data", "counted"), [("iob1", "iob1"), ("iob2", "iob2"), ("iobes", "iob2")])
def test_accuracy_is_that_of_the_datas_own_tags(corpus, tiny, tmp_path, data, counted):
    text = in_scheme(corpus, data, tmp_path)
    # A place right after another makes iob1 of them.
    beside = Sentence(("Linaville", "Tobaville"), ("B-LOC", "B-LOC"), 1)
    text = replace(text, scheme=data, valid=(*text.valid, beside), train=(*text.train, beside))
    task = TaggingTask(text, tiny, "nr-random")
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    found = task.evaluate("valid")
    words = [sentence.words for sentence in text.valid]
    guessed = predict(task.model.eval(), task.vocabularies, words, counted)
    pairs = [
        pair
        for sentence, tags in zip(text.valid, guessed, strict=True)
        for pair in zip(convert(sentence.tags, counted), tags, strict=True)
    ]
    assert found["accuracy"] == pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs))
    plain = TaggingTask(replace(text, scheme="iob2"), tiny, "nr-random")
    plain.model.load_state_dict(task.model.state_dict())
    as_iob2 = plain.evaluate("valid")
    assert [found[name] for name in ("precision", "recall", "f1")] == [
        as_iob2[name] for name in ("precision", "recall", "f1")
    ]
    assert (found["accuracy"] != as_iob2["accuracy"]) == (data == "iob1")


def test_batches_are_the_same_at_every_call_and_others_in_every_epoch(corpus, tiny):
    task = TaggingTask(corpus, tiny, "nr-random")
    orders = [[batch.order.tolist() for batch in task.batches(epoch, 0)] for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len(orders[0]) == task.steps_per_epoch == 163 // 5
    assert [batch.order.tolist() for batch in task.batches(0, 13)] == orders[0][13:]
    left_over = [set(range(163)) - {number for batch in order for number in batch} for order in orders]
    assert len(left_over[0]) == 3
    assert left_over[0] != left_over[2]


def test_every_process_takes_its_part_of_a_batch(corpus, tiny):
    preset = replace(tiny, batch=6, p=0.0)
    task = TaggingTask(corpus, preset, "nr-random")
    whole = next(task.batches(0, 2))
    parts = [
        next(TaggingTask(corpus, preset, "nr-random", world=World(rank, 2)).batches(0, 2)) for rank in (0, 1)
    ]
    task.vocabularies = replace(task.vocabularies, rare=0)
    losses = [task.loss(task.model, batch, None).loss for batch in (whole, *parts)]
    torch.testing.assert_close(losses[0], (losses[1] + losses[2]) / 2)
    assert sorted(parts[0].order.tolist() + parts[1].order.tolist()) == sorted(whole.order.tolist())
    assert len(parts[0].order) == 3
    with pytest.raises(RunError, match="6 columns"):
        TaggingTask(corpus, preset, "nr-random", world=World(0, 4))


def test_the_loss_is_that_of_a_sentence_and_reports_are_per_word(corpus, tiny):
    task = TaggingTask(corpus, replace(tiny, p=0.0), "nr-random")
    task.vocabularies = replace(task.vocabularies, rare=0)
    batch = next(task.batches(0, 0))
    outcome = task.loss(task.model, batch, None)
    total = -task.model(batch).sum()
    torch.testing.assert_close(outcome.loss, total / 5)
    torch.testing.assert_close(outcome.mean, total.detach() / batch.lengths.sum())
    assert outcome.items == batch.lengths.sum()


def test_rare_words_are_read_as_unknown_half_of_the_time(corpus, tiny):
    task = TaggingTask(corpus, tiny, "nr-random")
    first = len(task.vocabularies.words) - task.vocabularies.rare
    seen = torch.cat([task._hide_rare(batch).words for batch in task.batches(0, 0)])
    before = torch.cat([batch.words for batch in task.batches(0, 0)])
    assert torch.equal(seen[before < first], before[before < first])
    hidden = (seen[before >= first] == 0).double().mean()
    assert 0.35 < hidden < 0.65
    assert torch.equal(seen[seen >= first], before[seen >= first])


def test_rates_follow_ma_and_hovy(corpus, tiny):
    schedule = TaggingTask(corpus, tiny, "nr-random").schedule
    assert [schedule(epoch, 9) for epoch in (0, 1, 20)] == pytest.approx([1, 1 / 1.05, 0.5])


def test_pre_trained_vectors_are_the_first_embeddings(corpus, tiny):
    vectors = {"mr": [0.25] * 10, "absent": [-0.5] * 10}
    task = TaggingTask(corpus, tiny, "nr-random", vectors=vectors)
    weight, ids = task.model.embedding.weight, task.vocabularies.word_ids
    assert torch.equal(weight[ids["mr"]], torch.full((10,), 0.25))
    assert torch.equal(weight[ids["absent"]], torch.full((10,), -0.5))
    assert weight.requires_grad
    assert task.identity["data"] != TaggingTask(corpus, tiny, "nr-random").identity["data"]


def test_too_few_sentences_are_refused(corpus, tiny):
    with pytest.raises(DataError, match="4 training sentences are too few for a batch of 5"):
        TaggingTask(replace(corpus, train=corpus.train[:4]), tiny, "nr-random")


# The command line ---------------------------------------------------------------------------------------


SIZES = {
    "word-units": 10,
    "char-units": 4,
    "char-filters": 12,
    "char-groups": 4,
    "units": 8,
    "p": 0.2,
    "batch": 5,
    "rate": 0.05,
}


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    sizes = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    words = [
        "train",
        "ner",
        "--data",
        str(text),
        "--out",
        str(out),
        "--epochs",
        "3",
        "--dropout",
        "nr-random",
    ]
    assert cli.main([*words, *sizes, "--threads", "1", "--no-tensorboard", "--max-length", "7"]) == 0
    return out


def tag(monkeypatch, capsys, given: str | bytes, *words: str) -> tuple[int, str, str]:
    data = given.encode() if isinstance(given, str) else given
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    status = cli.main(["tag", *words])
    return status, *capsys.readouterr()


def test_training_reports_and_resumes_with_the_options_it_was_started_with(trained, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result["metric"] == "f1"
    assert json.loads((trained / "run.json").read_text())["command"] == "train ner"
    assert cli.main(["train", "ner", "--out", str(trained), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "training sentences of more than 7 words left out" in printed
    assert "processed" in printed
    assert f"test f1 {result['test']['f1']:.2f}" in printed
    assert json.loads((trained / "result.json").read_text())["test"] == result["test"]


def test_sentences_are_tagged_line_by_line(trained, monkeypatch, capsys):
    status, out, _ = tag(monkeypatch, capsys, "mr Boboson likes Laraville .\n\nhello", "--run", str(trained))
    assert status == 0
    rows = [line.split(" ") for line in out.split("\n")]
    # An empty line ends each sentence, of which the second has no words.
    assert [row[0] for row in rows] == ["mr", "Boboson", "likes", "Laraville", ".", "", "", "hello", "", ""]
    assert [entity.type for entity in entities([row[1] for row in rows[:5]])] == ["PER", "LOC"]


def test_columns_are_kept_and_the_tags_are_those_of_the_evaluation(
    trained, text, corpus, monkeypatch, capsys
):
    given = "-DOCSTART- O\n\n" + (text / "toy.test").read_text()
    status, out, _ = tag(monkeypatch, capsys, given, "--run", str(trained), "--columns", "--scheme", "iobes")
    assert status == 0
    rows = [line.split(" ") for line in out.splitlines() if line]
    assert rows[0] == ["-DOCSTART-", "O", "O"]
    assert [" ".join(row[:-1]) for row in rows] == [line for line in given.splitlines() if line]
    model, vocabularies = load_tagger(trained)
    expected = predict(model, vocabularies, [sentence.words for sentence in corpus.test], "iobes")
    assert [row[-1] for row in rows[1:]] == [tag for sentence in expected for tag in sentence]


def test_a_document_ends_the_sentence_before_it(trained, monkeypatch, capsys):
    read = []

    def noted(model, vocabularies, sentences, *rest):
        read.extend(sentences)
        return predict(model, vocabularies, sentences, *rest)

    monkeypatch.setattr("strop.tasks.tagging.tag.predict", noted)
    given = "a X\nb X\n-DOCSTART- X\nc X\n\n-DOCSTART- X\n-DOCSTART- X\n\nd X\n"
    status, out, _ = tag(monkeypatch, capsys, given, "--run", str(trained), "--columns")
    assert status == 0
    assert read == [["a", "b"], ["c"], ["d"]]
    rows = [line.rsplit(" ", 1) for line in out.splitlines()]
    assert [row[0] for row in rows] == [*given.splitlines(), ""]
    assert {row[1] for row in rows if row[0][:1] == "-"} == {"O"}


@pytest.mark.parametrize("given", ["\n", "\n \n\n"])
@pytest.mark.parametrize("words", [[], ["--columns"]])
def test_where_there_is_no_word_there_is_no_tag(trained, monkeypatch, capsys, given, words):
    status, out, _ = tag(monkeypatch, capsys, given, "--run", str(trained), *words)
    assert (status, out) == (0, "\n" * given.count("\n"))
    assert predict(*load_tagger(trained), [], "iob2") == []


def test_bad_input_is_one_clear_line(trained, text, tmp_path, monkeypatch, capsys):
    for words, given in ([], b"good\nb\xe9\n"), (["--columns"], b"good\n\nb\xe9\n"):
        status, out, errors = tag(monkeypatch, capsys, given, "--run", str(trained), *words)
        assert (status, out.split()[0]) == (2, "good")  # what came before is labelled
        line = given.count(b"\n")
        assert errors.splitlines()[-1].startswith(f"strop: stdin, line {line}: not UTF-8 (byte 0xe9); con")
    status, _, errors = tag(monkeypatch, capsys, "a", "--run", str(tmp_path))
    assert status == 2
    assert "no trained model there" in errors
    for words, message in [
        ([], "data: no folder was given; name one of tagged text"),
        (["--data", str(tmp_path / "absent")], "absent: no such folder"),
        (["--data", str(text), "--char-groups", "7"], "char_groups: 7; it must divide"),
        (["--data", str(text), "--max-length", "0"], "max_length: 0"),
        (
            ["--data", str(text), "--vectors", str(text / "toy.test"), "--out", str(tmp_path / "run")],
            "toy.test, line 1",
        ),
    ]:
        assert cli.main(["train", "ner", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_that_is_damaged_or_of_another_task_is_refused(trained, tmp_path, monkeypatch):
    file, description = trained / VOCABULARIES, trained / "run.json"
    whole, described = file.read_text(), description.read_text()
    try:
        file.write_text(whole.replace('"mr"', '"ms"'))
        with pytest.raises(RunFolderError, match=f"{VOCABULARIES}: not the file that the run wrote"):
            load_tagger(trained)
        description.unlink()  # which knows what it wrote
        content = json.loads(whole)
        for text, error in [
            ("{", RunFolderError),
            ("[]", RunFolderError),
            (json.dumps(content | {"words": 3}), RunFolderError),
            (json.dumps(content | {"characters": [1]}), RunFolderError),
            (json.dumps(content | {"rare": "1"}), RunFolderError),
            (json.dumps(content | {"rare": -1}), RunFolderError),
            (json.dumps(content | {"data_scheme": "bio"}), RunFolderError),
            (json.dumps(content | {"tags": ["O", "PER"]}), RunFolderError),
            (json.dumps(content | {"extra": 1}), RunFolderError),
            (whole.replace('"mr", ', ""), CheckpointError),
        ]:
            file.write_text(text)
            with pytest.raises(error, match=VOCABULARIES):
                load_tagger(trained)
        file.unlink()
        with pytest.raises(RunFolderError, match="cannot be read"):
            load_tagger(trained)
    finally:
        file.write_text(whole)
        description.write_text(described)
