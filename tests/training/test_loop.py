import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_run import ToyTask

from strop.ops import dispatch, native
from strop.training import (
    CheckpointError,
    EpochDecay,
    InterruptedRunError,
    LoopOptions,
    NonFiniteError,
    RunError,
    RunFolderError,
    Silent,
    loop,
    read_curve,
    read_trained,
    train,
)
from strop.training.checkpoint import CheckpointStore
from strop.training.gradients import clipped_step, gradient_norm
from strop.training.schedule import evaluation_steps


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def options(out: Path, **changes) -> LoopOptions:
    return LoopOptions(out, **{"epochs": 3, "tensorboard": False, "plot": False, **changes})


def last_weights(out: Path) -> dict[str, torch.Tensor]:
    store = CheckpointStore(out / "checkpoints")
    return dict(store.load(store.latest()).weights)


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_its_record(tmp_path):
    task = ToyTask(dropout=0.0)
    result = train(task, options(tmp_path / "run", evaluations=3, clip=1.0, description={"a": 1}))
    rows = read_curve(tmp_path / "run" / "curve.csv")
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert rows == list(result.rows)
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert rows[-1]["words"] == 36 * 20
    seconds = [row["train_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert result.train_seconds == seconds[-1] == pytest.approx(sum(result.phase_seconds.values()))
    assert result.best["valid_loss"] == min(row["valid_loss"] for row in rows) == result.test["loss"]
    assert set(result.phase_ms) == {"data", "forward", "backward", "optimiser", "step"}
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {
        "a": 1,
        "measures": {"metric": "loss", "goal": "min", "items": "words"},
    }
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test"] == result.test
    assert rows[-1]["rate"] == pytest.approx(0.01 / 1.5)


def test_evaluations_and_checkpoints_do_not_change_the_weights(tmp_path):
    train(ToyTask(), options(tmp_path / "plain", epochs=1))
    train(ToyTask(), options(tmp_path / "often", epochs=1, evaluations=12, checkpoint_seconds=0))
    assert_same(last_weights(tmp_path / "plain"), last_weights(tmp_path / "often"))


def test_another_seed_draws_other_masks(tmp_path):
    train(ToyTask(), options(tmp_path / "a", epochs=1))
    train(ToyTask(), options(tmp_path / "b", epochs=1, seed=1))
    a, b = last_weights(tmp_path / "a"), last_weights(tmp_path / "b")
    assert not torch.equal(a["output.bias"], b["output.bias"])


def test_a_finished_run_goes_on_with_more_epochs(tmp_path):
    train(ToyTask(), options(tmp_path / "once", epochs=3))
    train(ToyTask(), options(tmp_path / "twice", epochs=2))
    again = train(ToyTask(), options(tmp_path / "twice", epochs=2, resume=True))
    assert again.steps == 24
    with pytest.raises(InterruptedRunError):
        train(ToyTask(signal_at=24), options(tmp_path / "twice", epochs=3, resume=True))
    assert not (tmp_path / "twice" / "result.json").exists()  # it told of 24 steps
    result = train(ToyTask(), options(tmp_path / "twice", epochs=3, resume=True))
    assert_same(last_weights(tmp_path / "once"), last_weights(tmp_path / "twice"))
    assert [row["step"] for row in result.rows] == [12, 24, 36]
    with pytest.raises(RunError, match="step 36 already"):
        train(ToyTask(), options(tmp_path / "twice", epochs=1, resume=True))


def test_resuming_a_run_that_never_got_to_a_checkpoint_begins_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "curve.csv").write_text("step,valid_l")
    result = train(ToyTask(), options(tmp_path / "run", epochs=1, resume=True))
    assert result.steps == 12
    assert len(read_curve(tmp_path / "run" / "curve.csv")) == 1


def test_an_interruption_saves_and_the_run_goes_on_to_the_same_weights(tmp_path):
    train(ToyTask(), options(tmp_path / "whole"))
    with pytest.raises(InterruptedRunError, match=r"stopped at step 17 of 36.*to go on: type this") as caught:
        train(ToyTask(signal_at=16), options(tmp_path / "run", resume_hint="type this"))
    assert caught.value.signal == 2
    train(ToyTask(), options(tmp_path / "run", resume=True))
    assert_same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "run"))


def test_an_interrupted_evaluation_is_made_again(tmp_path):
    class Impatient(ToyTask):
        def evaluate(self, split):
            if self.evaluations == 1:
                import signal

                signal.raise_signal(signal.SIGINT)
            return super().evaluate(split)

    whole = train(ToyTask(), options(tmp_path / "whole"))
    with pytest.raises(InterruptedRunError, match="step 24"):
        train(Impatient(), options(tmp_path / "run"))
    resumed = train(ToyTask(), options(tmp_path / "run", resume=True))
    assert_same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "run"))
    for name in ("step", "valid_loss", "train_loss"):
        assert [row[name] for row in whole.rows] == [row[name] for row in resumed.rows]


def test_a_loss_that_is_no_number_stops_the_run_before_it_spoils_the_weights(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 20: the loss is nan and the gradient norm .*-step-12"):
        train(ToyTask(spoil_at=20), options(tmp_path / "run"))
    train(ToyTask(), options(tmp_path / "run", resume=True))
    train(ToyTask(), options(tmp_path / "whole"))
    assert_same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "run"))


@pytest.mark.parametrize("found", [math.nan, math.inf])
def test_a_validation_that_is_no_number_stops_the_run_at_its_last_checkpoint(tmp_path, found):
    class Spoilt(ToyTask):
        def evaluate(self, split):
            metrics = super().evaluate(split)
            return metrics if self.evaluations < 2 else {"loss": found}

    with pytest.raises(
        NonFiniteError, match=rf"step 24: the valid loss is {found}, .*-step-12\. A lower learning"
    ):
        train(Spoilt(), options(tmp_path / "run"))
    assert len(read_curve(tmp_path / "run" / "curve.csv")) == 1


def test_the_best_weights_are_kept_and_tested(tmp_path):
    class Worsening(ToyTask):
        def evaluate(self, split):
            super().evaluate(split)
            self.tested = {name: value.clone() for name, value in self.model.state_dict().items()}
            return {"loss": float(abs(self.evaluations - 2))}

    task = Worsening()
    result = train(task, options(tmp_path / "run"))
    assert result.best["step"] == 24
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert_same(task.tested, store.load_best(24))
    assert {entry.name for entry in store.folder.iterdir() if entry.name.startswith("best")} == {
        "best-step-24"
    }
    assert len(list(store.folder.iterdir())) == 3  # and two checkpoints


def test_a_higher_metric_may_be_the_better_one(tmp_path):
    class Score(ToyTask):
        goal = "max"

        def evaluate(self, split):
            super().evaluate(split)
            return {"loss": [1.0, 2.0, 1.5, 0.0][self.evaluations - 1]}

    assert train(Score(), options(tmp_path / "run")).best["step"] == 24


def test_another_run_is_not_resumed(tmp_path):
    train(ToyTask(), options(tmp_path / "run", epochs=1))
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run" / "checkpoints").rglob("*"))
    with pytest.raises(
        CheckpointError, match=r"another run \(rate: 0.01 there, 0.5 now, seed: 0 there, 3 now"
    ):
        train(ToyTask(rate=0.5), options(tmp_path / "run", resume=True, seed=3))
    after = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run" / "checkpoints").rglob("*"))
    assert before == after


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    train(ToyTask(), options(tmp_path / "run", epochs=1))
    with pytest.raises(RunFolderError, match=r"run: not empty; .*--resume"):
        train(ToyTask(), options(tmp_path / "run"))
    with pytest.raises(RunFolderError, match="no run to resume"):
        train(ToyTask(), options(tmp_path / "none", resume=True))
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="a file; name a folder"):
        train(ToyTask(), options(tmp_path / "file"))
    with pytest.raises(RunFolderError, match="cannot be written"):
        train(ToyTask(), options(tmp_path / "file" / "run"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not a run's folder"):
        train(ToyTask(), options(tmp_path / "foreign", resume=True))
    assert [entry.name for entry in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_a_folder_in_use_is_refused(tmp_path):
    class Nosy(ToyTask):
        def evaluate(self, split):
            with pytest.raises(RunFolderError, match="another process"):
                train(ToyTask(), options(tmp_path / "run", resume=True))
            return super().evaluate(split)

    train(Nosy(), options(tmp_path / "run", epochs=1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"evaluations": 0},
        {"patience": 0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"checkpoint_seconds": -1.0},
    ],
)
def test_options_are_checked(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        options(tmp_path, **wrong)


@pytest.mark.parametrize("limit", [None, 0.1, 1e3])
@pytest.mark.parametrize(
    ("options", "sparse"),
    [
        ({}, False),
        ({}, True),
        ({"momentum": 0.9}, False),
        ({"momentum": 0.9}, True),
        ({"momentum": 0.9, "nesterov": True}, False),
        ({"weight_decay": 0.1}, False),  # torch's SGD refuses it with sparse gradients
    ],
    ids=str,
)
def test_clipped_steps_match_torchs(options, sparse, limit):
    models = [nn.Sequential(nn.Embedding(9, 4, sparse=each), nn.Linear(4, 3)) for each in (sparse, False)]
    models[1].load_state_dict(models[0].state_dict())
    ours, theirs = (torch.optim.SGD(model.parameters(), lr=0.5, **options) for model in models)
    for _ in range(3):
        ids = torch.tensor([1, 5, 5, 2])
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.zero_grad()
            model(ids).square().sum().backward()
        parameters = list(models[0].parameters())
        norm = gradient_norm(parameters)
        clipped_step(ours, parameters, norm, limit)
        expected = nn.utils.clip_grad_norm_(models[1].parameters(), limit or math.inf)
        theirs.step()
        torch.testing.assert_close(norm, expected)
        for mine, other in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(mine, other)
    assert ours.param_groups[0]["lr"] == 0.5
    if "momentum" not in options:  # a sparse gradient makes a sparse buffer
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_rate_decays_as_in_the_original_program():
    rate = EpochDecay(1.2, 6)
    assert [rate(epoch, 0) for epoch in (0, 6)] == [1.0, 1.0]
    assert rate(7, 0) == pytest.approx(1 / 1.2)
    assert rate(9, 0) == pytest.approx(1 / 1.2**3)
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"factor: {factor}; it must be more than 0"):
            EpochDecay(factor, 0)
    with pytest.raises(ValueError, match="every: 0"):
        EpochDecay(1.2, 0, 0)


def test_an_epoch_has_no_more_evaluations_than_steps(tmp_path):
    assert evaluation_steps(12, 12) == set(range(1, 13))
    assert evaluation_steps(2, 7) == {4, 7}
    with pytest.raises(ValueError, match="evaluations: 1000000000; an epoch has 12 steps"):
        train(ToyTask(), options(tmp_path / "run", evaluations=10**9))
    assert not (tmp_path / "run").exists()


class Scripted(ToyTask):
    """A task whose valid metric goes down, then up, whatever is trained."""

    losses = (5.0, 4.0, 4.5, 4.2, 4.1, 3.0, 9.0, 9.0, 9.0)

    def evaluate(self, split):
        super().evaluate(split)
        return {"loss": self.losses[self.evaluations - 1] if split == "valid" else 0.0}


def test_a_run_without_a_better_metric_ends_early(tmp_path):
    result = train(Scripted(), options(tmp_path / "run", evaluations=3, patience=2))
    assert [row["valid_loss"] for row in result.rows] == [5.0, 4.0, 4.5, 4.2]
    assert result.steps == 16
    assert result.best["step"] == 8
    # Evaluations without a better metric are counted in a row: the sixth begins anew.
    patient = train(Scripted(), options(tmp_path / "patient", evaluations=3, patience=4))
    assert patient.steps == 36
    assert train(Scripted(), options(tmp_path / "never", evaluations=3)).steps == 36


def test_early_stopping_counts_on_after_a_stop(tmp_path):
    class Interrupted(Scripted):
        def __init__(self, done, **arguments):
            super().__init__(**arguments)
            self.evaluations = done

    whole = train(Scripted(), options(tmp_path / "whole", evaluations=3, patience=3))
    assert whole.steps == 20
    with pytest.raises(InterruptedRunError):
        train(Scripted(signal_at=17), options(tmp_path / "run", evaluations=3, patience=3))
    result = train(Interrupted(4), options(tmp_path / "run", evaluations=3, patience=3, resume=True))
    assert result.steps == 20
    assert_same(last_weights(tmp_path / "whole"), last_weights(tmp_path / "run"))
    # Ended early it is complete; with more patience it goes on, to where it would have gone at once.
    again = train(Interrupted(5), options(tmp_path / "run", evaluations=3, patience=3, resume=True))
    assert (again.steps, again.best) == (20, result.best)
    train(Scripted(), options(tmp_path / "long", evaluations=3))
    more = train(Interrupted(5), options(tmp_path / "run", evaluations=3, patience=9, resume=True))
    assert more.steps == 36
    assert_same(last_weights(tmp_path / "long"), last_weights(tmp_path / "run"))


def test_what_was_trained_is_read_back(tmp_path):
    task = Scripted()
    result = train(task, options(tmp_path / "run", evaluations=3, files={"words.json": '["ä"]'}))
    assert (tmp_path / "run" / "words.json").read_text(encoding="utf-8") == '["ä"]'
    trained = read_trained(tmp_path / "run")
    assert_same(dict(trained.weights), task.model.state_dict())  # the best, which were tested
    assert trained.metrics == result.best
    assert trained.identity["rate"] == 0.01
    with pytest.raises(RunFolderError, match="no trained model there"):
        read_trained(tmp_path)


def test_a_model_that_was_never_evaluated_is_not_read(tmp_path):
    with pytest.raises(InterruptedRunError):
        train(ToyTask(signal_at=4), options(tmp_path / "run"))
    with pytest.raises(RunFolderError, match="no trained model there yet"):
        read_trained(tmp_path / "run")


@pytest.mark.parametrize("gains", [True, False])
def test_bfloat16_that_gains_nothing_is_told_of_before_the_first_step(tmp_path, monkeypatch, gains):
    reason = None if gains else "no instruction for it"
    monkeypatch.setattr(loop.dispatch, "why_not_bf16", lambda device: reason)
    task, said, before = ToyTask(), Said(), []

    def loss(*_):
        before.extend(said.lines)
        raise RunError("seen enough")

    monkeypatch.setattr(task, "loss", loss)
    with pytest.raises(RunError, match="seen enough"):
        train(task, options(tmp_path / "run", bf16=True), progress=said)
    told = "bf16: slower than float32 here, or no faster (no instruction for it); better left out"
    assert before == ([] if gains else [told])


def test_where_bfloat16_gains_something(monkeypatch):
    cpu = torch.device("cpu")
    with dispatch.use("reference"):
        assert "native kernels" in (dispatch.why_not_bf16(cpu) or "")
    if not dispatch.available("native"):
        return
    for has in (True, False):
        monkeypatch.setattr(native, "has_bf16", has)
        assert (dispatch.why_not_bf16(cpu) is None) == has
    assert native.isa() in (dispatch.why_not_bf16(cpu) or "")
