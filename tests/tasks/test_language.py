import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import strop
from strop.data.text import Corpus, DataError, Vocabulary
from strop.ops import native
from strop.tasks.language import (
    DROPOUTS,
    PRESETS,
    LanguageModel,
    LanguageTask,
    Options,
    Preset,
    perplexity,
    train_language,
)
from strop.training import CheckpointError, RunError, World, read_curve

TINY = Preset(
    units=12,
    layers=2,
    steps=5,
    batch=4,
    p=0.5,
    init=0.1,
    rate=1.0,
    decay=1.2,
    decay_after=6,
    clip=5.0,
    epochs=2,
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(0)
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(15))]

    def text(length):
        # Each word tells much about the next one.
        steps = torch.randint(1, 3, (length,), generator=generator)
        return steps.cumsum(0) % len(words)

    return Corpus("toy", Vocabulary(words), text(400), text(120), text(130))


def test_the_presets_are_those_of_the_paper():
    medium, large = PRESETS["zaremba-medium"], PRESETS["zaremba-large"]
    assert medium == Preset(650, 2, 35, 20, 0.5, 0.05, 1.0, 1.2, 6, 5.0, 39)
    assert large == Preset(1500, 2, 35, 20, 0.65, 0.04, 1.0, 1.15, 14, 10.0, 55)


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 1.0},
        {"p": math.nan},
        {"units": 0},
        {"steps": -1},
        {"clip": -0.1},
        {"clip": 0.0},
        {"rate": 0.0},
        {"decay": 0.0},
        {"decay_after": -1},
    ],
)
def test_hyper_parameters_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY, **wrong)


def test_options_replace_what_the_preset_says():
    preset = Options(preset="zaremba-medium", epochs=3, p=0.0).resolved()
    assert preset == replace(PRESETS["zaremba-medium"], epochs=3, p=0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_all_dropouts_start_from_the_same_weights(corpus, tied):
    states = [LanguageTask(corpus, TINY, dropout, tied=tied).model.state_dict() for dropout in DROPOUTS]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    assert all(weight.abs().max() <= 0.1 and weight.std() > 0.03 for weight in states[0].values())
    other = LanguageTask(corpus, TINY, "nr-st", tied=tied, seed=1).model.state_dict()
    assert not torch.equal(other["embedding.weight"], states[0]["embedding.weight"])


def test_the_models_drop_what_their_names_say():
    kinds = {dropout: LanguageModel(9, 6, 2, 0.5, dropout) for dropout in DROPOUTS}
    baseline = kinds["nr-random"]
    assert type(baseline.lstm) is nn.LSTM
    assert type(baseline.output) is nn.Linear
    for dropout, recurrent in (("nr-st", 0.0), ("nr-rh-st", 0.5)):
        lstm = kinds[dropout].lstm
        assert isinstance(lstm, strop.LSTM)
        assert (lstm.input_dropout, lstm.dropout, lstm.recurrent_dropout) == (0.5, 0.5, recurrent)
        assert isinstance(kinds[dropout].output, strop.Linear)
        assert kinds[dropout].output.dropout == 0.5
    with pytest.raises(ValueError, match="'all'; it must be one of nr-random"):
        LanguageModel(9, 6, 2, 0.5, "all")  # pyright: ignore[reportArgumentType]


def test_without_dropout_all_three_are_the_same_function(corpus):
    preset = replace(TINY, p=0.0)
    tasks = [LanguageTask(corpus, preset, dropout) for dropout in DROPOUTS]
    batch = next(tasks[0].batches(0, 0))
    outcomes = [task.loss(task.model, batch, task.first_carry()) for task in tasks]
    for outcome in outcomes:
        outcome.loss.backward()
        torch.testing.assert_close(outcome.loss, outcomes[0].loss)
        torch.testing.assert_close(outcome.carry, outcomes[0].carry)
    for task in tasks[1:]:
        for (name, p), q in zip(task.model.named_parameters(), tasks[0].model.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_tied_weights_are_one_parameter(corpus):
    model = LanguageTask(corpus, TINY, "nr-rh-st", tied=True).model
    assert model.output.weight is model.embedding.weight


def test_the_loss_is_summed_over_steps_and_averaged_over_the_batch(corpus):
    task = LanguageTask(corpus, replace(TINY, p=0.0), "nr-st")
    x, y = next(task.batches(0, 0))
    outcome = task.loss(task.model, (x, y), task.first_carry())
    logits, _ = task.model(x, task.first_carry())
    expected = sum(nn.functional.cross_entropy(logits[t], y[t]) for t in range(TINY.steps))
    torch.testing.assert_close(outcome.loss, expected)
    torch.testing.assert_close(outcome.mean, expected.detach() / TINY.steps)
    assert outcome.items == TINY.steps * TINY.batch


def test_the_embedding_has_gradients_of_the_words_that_were_read(corpus):
    task = LanguageTask(corpus, TINY, "nr-st")
    batch = next(task.batches(0, 0))
    task.loss(task.model, batch, task.first_carry()).loss.backward()
    gradient = task.model.embedding.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert gradient.coalesce().indices()[0].tolist() == batch[0].unique().tolist()
    for dense in (
        LanguageTask(corpus, TINY, "nr-st", tied=True),
        LanguageTask(corpus, TINY, "nr-st", world=World(0, 2)),
    ):
        assert not dense.model.embedding.sparse


def test_windows_are_full_in_order_and_the_same_at_every_call(corpus):
    task = LanguageTask(corpus, TINY, "nr-random")
    columns = len(corpus.train) // TINY.batch
    assert task.steps_per_epoch == (columns - 1) // TINY.steps
    windows = list(task.batches(0, 0))
    assert len(windows) == task.steps_per_epoch
    x = torch.cat([x for x, _ in windows])
    y = torch.cat([y for _, y in windows])
    for column in range(TINY.batch):
        start = column * columns
        assert torch.equal(x[:, column], corpus.train[start : start + len(x)])
        assert torch.equal(y[:, column], corpus.train[start + 1 : start + 1 + len(x)])
    assert torch.equal(next(task.batches(3, 4))[0], windows[4][0])


def test_every_process_reads_its_own_columns(corpus):
    whole = next(LanguageTask(corpus, TINY, "nr-st").batches(0, 2))
    parts = [next(LanguageTask(corpus, TINY, "nr-st", world=World(rank, 2)).batches(0, 2)) for rank in (0, 1)]
    for i in (0, 1):
        assert torch.equal(torch.cat([part[i] for part in parts], 1), whole[i])
    with pytest.raises(RunError, match="4 columns"):
        LanguageTask(corpus, TINY, "nr-st", world=World(0, 3))


@pytest.mark.parametrize("length", [2, 3, 130, 401, 1500])
@pytest.mark.parametrize("columns", [1, 3, 20])
def test_perplexity_is_that_of_reading_the_text_in_one_piece(corpus, length, columns):
    torch.manual_seed(0)
    model = LanguageModel(17, 12, 2, 0.5, "nr-rh-st").eval()
    model.initialise(0.5, 0)
    ids = torch.randint(17, (length,))
    logits, _ = model(ids[:-1].unsqueeze(1), model.first_state(1))
    expected = nn.functional.cross_entropy(logits.squeeze(1), ids[1:]).exp().item()
    assert perplexity(model, ids, columns, chunk=50) == pytest.approx(expected, rel=1e-4)


def test_perplexity_needs_two_words():
    with pytest.raises(ValueError, match="ids: 1 words"):
        perplexity(LanguageModel(5, 4, 1, 0.0, "nr-st"), torch.tensor([1]))


def test_the_perplexity_of_a_spoilt_model_is_no_number():
    model = LanguageModel(5, 4, 1, 0.0, "nr-st")
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    assert math.isnan(perplexity(model.eval(), torch.tensor([1, 2, 3])))


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_model_learns_and_resumes_exactly(corpus, dropout, tmp_path):
    preset = replace(TINY, p=0.1, init=0.5, rate=2.0, epochs=4)
    whole = train_language(
        corpus, replace(preset, epochs=8), dropout, tmp_path / "whole", evaluations=2, tensorboard=False
    )
    rows = read_curve(tmp_path / "whole" / "curve.csv")
    assert rows[-1]["valid_perplexity"] < 0.8 * rows[0]["valid_perplexity"]
    assert whole.test["perplexity"] < 10
    assert (tmp_path / "whole" / "curve.png").exists()
    train_language(corpus, preset, dropout, tmp_path / "run", evaluations=2, tensorboard=False)
    resumed = train_language(
        corpus,
        replace(preset, epochs=8),
        dropout,
        tmp_path / "run",
        evaluations=2,
        tensorboard=False,
        resume=True,
    )
    assert resumed.test == whole.test
    assert [row["valid_perplexity"] for row in resumed.rows] == [row["valid_perplexity"] for row in rows]


def test_a_run_is_not_resumed_on_other_data_or_with_another_dropout(corpus, tmp_path):
    preset = replace(TINY, epochs=1)
    train_language(corpus, preset, "nr-st", tmp_path / "run", tensorboard=False)
    other = replace(corpus, valid=corpus.valid[:-1])
    with pytest.raises(CheckpointError, match="data"):
        train_language(other, preset, "nr-st", tmp_path / "run", tensorboard=False, resume=True)
    with pytest.raises(CheckpointError, match="dropout: 'nr-st' there, 'nr-random' now"):
        train_language(corpus, preset, "nr-random", tmp_path / "run", tensorboard=False, resume=True)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_in_bfloat16_a_model_learns_and_resumes_exactly(corpus, dropout, tmp_path):
    preset = replace(TINY, p=0.1, init=0.5, rate=2.0)

    def run(name: str, epochs: int = 8, **settings):
        chosen = replace(preset, epochs=epochs)
        return train_language(corpus, chosen, dropout, tmp_path / name, tensorboard=False, **settings)

    plain, rounded = run("plain"), run("bf16", bf16=True)
    first, exactly = rounded.rows[0]["train_perplexity"], plain.rows[0]["train_perplexity"]
    if native.has_bf16:  # elsewhere structured layers compute in float32 all the same
        assert first != exactly
    assert first == pytest.approx(exactly, rel=0.05)
    assert rounded.test["perplexity"] < 10
    run("stopped", 3, bf16=True)
    assert run("stopped", bf16=True, resume=True).test == rounded.test
    with pytest.raises(CheckpointError, match="bf16"):
        run("stopped", 9, resume=True)


def test_too_little_text_is_refused(corpus):
    with pytest.raises(DataError, match="too few"):
        LanguageTask(replace(corpus, train=corpus.train[:20]), TINY, "nr-st")
