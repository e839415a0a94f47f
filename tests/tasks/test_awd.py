import math
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import strop
from strop.data.text import Corpus, DataError, Vocabulary
from strop.tasks.language import (
    AWD,
    DROPOUTS,
    AwdModel,
    AwdPreset,
    LanguageTask,
    Options,
    load,
    perplexity,
    train_language,
)
from strop.tasks.language.awd import LockedDropout
from strop.training import InterruptedRunError, LoopOptions, RunFolderError, World, train
from strop.training.checkpoint import CheckpointStore

TINY = replace(
    AWD,
    embedding=8,
    units=12,
    steps=7,
    batch=4,
    input_dropout=0.2,
    layer_dropout=0.2,
    output_dropout=0.2,
    word_dropout=0.1,
    recurrent_dropout=0.25,
    init=0.5,
    rate=4.0,
    clip=1.0,
    trigger=1,
    epochs=2,
)
NOTHING_DROPPED = replace(
    TINY, input_dropout=0.0, layer_dropout=0.0, output_dropout=0.0, word_dropout=0.0, recurrent_dropout=0.0
)
WORDS = 17


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    generator = torch.Generator().manual_seed(0)
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(WORDS - 2))]

    def text(length):
        # Each word tells much about the next one.
        steps = torch.randint(1, 3, (length,), generator=generator)
        return steps.cumsum(0) % len(words)

    return Corpus("toy", Vocabulary(words), text(600), text(120), text(130))


def model(preset: AwdPreset, dropout, seed: int = 0) -> AwdModel:
    made = AwdModel(WORDS, preset, dropout)
    made.initialise(preset.init, seed)
    return made


def window(steps: int = 7, batch: int = 4) -> torch.Tensor:
    return torch.randint(WORDS, (steps, batch))


def test_the_preset_is_that_of_the_paper():
    assert (
        AwdPreset(400, 1150, 3, 70, 80, 0.4, 0.25, 0.4, 0.1, 0.5, 2.0, 1.0, 0.1, 30.0, 1.2e-6, 5, 0.25, 100)
        == AWD
    )
    sizes = [lstm.weight_ih_l0.shape for lstm in AwdModel(50, AWD, "nr-rh-st").lstms]
    assert sizes == [(4600, 400), (4600, 1150), (1600, 1150)]


def test_weights_begin_alike_and_are_tied(corpus):
    states = [LanguageTask(corpus, TINY, dropout).model.state_dict() for dropout in DROPOUTS]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    state = states[0]
    assert torch.equal(state["output.weight"], state["embedding.weight"])
    assert 0.4 < state["embedding.weight"].abs().max() <= 0.5
    assert not state["output.bias"].any()
    for layer, units in ((0, 12), (2, 8)):
        bound = 1 / math.sqrt(units)
        assert 0.8 * bound < state[f"lstms.{layer}.weight_hh_l0"].abs().max() <= bound
    made = model(TINY, "nr-st")
    assert made.output.weight is made.embedding.weight


def test_what_is_dropped():
    kinds = {dropout: model(TINY, dropout) for dropout in DROPOUTS}
    assert all(type(lstm) is nn.LSTM for lstm in kinds["nr-random"].lstms)
    for dropout, recurrent in (("nr-st", 0.0), ("nr-rh-st", 0.25)):
        for lstm in kinds[dropout].lstms:
            assert isinstance(lstm, strop.LSTM)
            assert (lstm.input_dropout, lstm.recurrent_dropout) == (0.2, recurrent)
        assert kinds[dropout].output.dropout == 0.2
    with pytest.raises(ValueError, match="'all'; it must be one of nr-random"):
        AwdModel(9, TINY, "all")  # pyright: ignore[reportArgumentType]


def test_locked_dropout_is_the_same_at_every_step():
    x = torch.ones(6, 50, 40)
    y = LockedDropout(0.25)(x)
    assert torch.equal(y, y[:1].expand_as(y))
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (y[0] == 0).double().mean() == pytest.approx(0.25, abs=0.05)
    assert len({tuple(row) for row in y[0].tolist()}) > 40  # of its own in every row
    assert LockedDropout(0.25).eval()(x) is x


def test_words_are_dropped_whole_and_everywhere():
    made = model(replace(NOTHING_DROPPED, word_dropout=0.3), "nr-rh-st")
    x = torch.arange(WORDS).repeat(2, 3, 1).flatten(1)
    y = made._embed(x)
    assert torch.equal(y[0], y[1])
    kept = y.any(-1)
    assert 0 < kept[0].sum() < kept[0].numel()
    torch.testing.assert_close(y[kept], made.embedding(x)[kept] / 0.7)
    assert torch.equal(made.eval()._embed(x), made.embedding(x))


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_recurrent_weights_are_dropped_one_by_one_or_not_at_all(dropout):
    made = model(replace(NOTHING_DROPPED, recurrent_dropout=0.25), dropout)
    x = window(30)
    logits, _, _ = made(x, made.first_state(4))
    logits.square().sum().backward()
    for lstm in made.lstms:
        dropped = (lstm.weight_hh_l0.grad == 0).double().mean()
        if dropout == "nr-rh-st":  # hidden states, anew at every step, so every weight takes part
            assert dropped == 0
        else:
            assert dropped == pytest.approx(0.25, abs=0.08)
        assert (lstm.weight_ih_l0.grad != 0).all()
    before = made.lstms[0].weight_hh_l0
    assert isinstance(before, nn.Parameter)  # put back after the pass


@pytest.mark.parametrize("dropout", ["nr-random", "nr-st"])
def test_dropped_recurrent_weights_are_those_of_a_plain_lstm(dropout, monkeypatch):
    made = model(replace(NOTHING_DROPPED, recurrent_dropout=0.5), dropout)
    drawn = []
    real = nn.functional.dropout

    def recorded(*args, **kwargs):
        drawn.append(real(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(nn.functional, "dropout", recorded)
    x = window()
    logits, _, _ = made(x, made.first_state(4))
    logits.square().sum().backward()
    assert len(drawn) == 3
    y = made.embedding(x)
    for lstm, weight in zip(made.lstms, drawn, strict=True):
        plain = nn.LSTM(lstm.input_size, lstm.hidden_size)
        plain.load_state_dict({**lstm.state_dict(), "weight_hh_l0": weight.detach()})
        y, _ = plain(y)
    torch.testing.assert_close(logits, made.output(y).detach(), rtol=1e-5, atol=1e-6)
    for lstm, weight in zip(made.lstms, drawn, strict=True):
        assert torch.equal(lstm.weight_hh_l0.grad == 0, weight == 0)


def test_without_dropout_all_three_are_the_same_function(corpus):
    tasks = [LanguageTask(corpus, NOTHING_DROPPED, dropout) for dropout in DROPOUTS]
    batch = next(tasks[0].batches(0, 0))
    outcomes = [task.loss(task.model, batch, task.first_carry()) for task in tasks]
    for outcome in outcomes:
        outcome.loss.backward()
        torch.testing.assert_close(outcome.loss, outcomes[0].loss)
        torch.testing.assert_close(outcome.carry, outcomes[0].carry)
        assert outcome.loss > outcome.mean
    for task in tasks[1:]:
        for (name, p), q in zip(task.model.named_parameters(), tasks[0].model.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_the_penalty_is_on_dropped_activations_and_on_changes(dropout):
    made = model(replace(TINY, ar=3.0, tar=0.5), dropout)
    seen = {}
    made.output.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs))
    made.lstms[-1].register_forward_hook(lambda module, inputs, output: seen.update(y=output[0]))
    x = window()
    _, _, penalty = made(x, made.first_state(4))
    y, (dropped, *masks) = seen["y"], seen["inputs"]
    if masks:
        dropped = dropped * masks[0].dense()
    assert not torch.equal(dropped, y)
    expected = 3.0 * dropped.pow(2).mean() + 0.5 * (y[1:] - y[:-1]).pow(2).mean()
    torch.testing.assert_close(penalty, expected)
    assert torch.isfinite(made(x[:1], made.first_state(4))[2])  # no change over a single step
    assert made.eval()(x, made.first_state(4))[2] == 0


def test_every_process_reads_its_own_columns_of_the_same_windows(corpus):
    whole = LanguageTask(corpus, TINY, "nr-st")
    parts = [LanguageTask(corpus, TINY, "nr-st", world=World(rank, 2)) for rank in (0, 1)]
    for index in range(whole.steps_per_epoch):
        x, y = next(whole.batches(1, index))
        pairs = [next(part.batches(1, index)) for part in parts]
        assert torch.equal(torch.cat([px for px, _ in pairs], 1), x)
        assert torch.equal(torch.cat([py for _, py in pairs], 1), y)


def test_perplexity_is_that_of_reading_the_text_in_one_piece():
    made = model(TINY, "nr-rh-st").eval()
    ids = torch.randint(WORDS, (401,))
    logits, _, _ = made(ids[:-1].unsqueeze(1), made.first_state(1))
    expected = nn.functional.cross_entropy(logits.squeeze(1), ids[1:]).exp().item()
    assert perplexity(made, ids, 3, chunk=50) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_a_model_learns_averages_and_resumes_exactly(corpus, dropout, tmp_path):
    preset = replace(TINY, embedding=16, units=24, layers=2, rate=10.0, ar=0.5, tar=0.2)

    def trained(name, epochs, resume=False):
        task = LanguageTask(corpus, preset, dropout)
        for _ in range(2):  # so that the first evaluation triggers
            task.optimizer.observe(0.0)
        out = tmp_path / name
        options = LoopOptions(
            out, epochs, clip=preset.clip, tensorboard=False, plot=False, resume=resume, files=task.files
        )
        return train(task, options)

    whole = trained("whole", 6)
    perplexities = [row["valid_perplexity"] for row in whole.rows]
    assert whole.rows[-1]["train_perplexity"] < 0.7 * whole.rows[0]["train_perplexity"]
    assert whole.test["perplexity"] < 0.7 * WORDS  # chance is one in all words
    trained("run", 3)
    resumed = trained("run", 6, resume=True)
    assert resumed.test == whole.test
    assert [row["valid_perplexity"] for row in resumed.rows] == perplexities
    latest = CheckpointStore(tmp_path / "run" / "checkpoints")
    groups = latest.load(latest.latest()).optimizer["param_groups"]
    assert groups[0]["steps_averaged"] > 0

    again, vocabulary = load(tmp_path / "run")
    assert vocabulary.words == corpus.vocabulary.words
    assert not again.training
    assert perplexity(again, corpus.test) == whole.test["perplexity"]


def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(corpus, tmp_path):
    class Interrupted(LanguageTask):
        def batches(self, epoch, start):
            for index, batch in enumerate(super().batches(epoch, start), start):
                if (epoch, index) == (1, 9):
                    signal.raise_signal(signal.SIGINT)
                yield batch

    def options(name, **more):
        return LoopOptions(tmp_path / name, 2, clip=1.0, tensorboard=False, plot=False, **more)

    def weights(name):
        store = CheckpointStore(tmp_path / name / "checkpoints")
        return store.load(store.latest()).weights

    train(LanguageTask(corpus, TINY, "nr-rh-st"), options("whole"))
    with pytest.raises(InterruptedRunError):
        train(Interrupted(corpus, TINY, "nr-rh-st"), options("run"))
    train(LanguageTask(corpus, TINY, "nr-rh-st"), options("run", resume=True))
    whole, resumed = weights("whole"), weights("run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_options_of_another_preset_are_refused():
    assert Options(preset="awd-lstm", units=9, ar=0.0).resolved() == replace(AWD, units=9, ar=0.0)
    with pytest.raises(
        ValueError, match=r"p: 0\.5; the preset awd-lstm has no such setting\. Its settings are embedding"
    ):
        Options(preset="awd-lstm", p=0.5).resolved()
    with pytest.raises(ValueError, match="trigger: 3; the preset small has no such setting"):
        Options(trigger=3).resolved()


@pytest.mark.parametrize("wrong", [{"word_dropout": 1.0}, {"trigger": 0}, {"ar": -1.0}, {"embedding": 0}])
def test_hyper_parameters_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY, **wrong)


def test_what_is_no_trained_language_model_is_not_loaded(corpus, tmp_path):
    with pytest.raises(RunFolderError, match="no trained model there"):
        load(tmp_path)
    train_language(corpus, replace(TINY, epochs=1), "nr-st", tmp_path / "run", tensorboard=False)
    (tmp_path / "run" / "vocabulary.json").write_text('["<unk>", "<eos>"]')
    with pytest.raises(RunFolderError, match=r"vocabulary\.json: not the file that the run wrote"):
        load(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()  # which knows what it wrote
    with pytest.raises(RunFolderError, match="not a language model with its vocabulary"):
        load(tmp_path / "run")
    (tmp_path / "run" / "vocabulary.json").unlink()
    with pytest.raises(DataError, match="no vocabulary there"):
        load(tmp_path / "run")
