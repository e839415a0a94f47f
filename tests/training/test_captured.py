"""Captured steps: with a recorder that does the work again on a CPU, and on a GPU with CUDA graphs."""

import logging
from itertools import islice

import pytest
import torch
from test_loop import assert_same, last_weights, options
from toy_run import ToyTask

from strop.data.text import Corpus, Vocabulary
from strop.tasks.language.presets import Preset
from strop.tasks.language.task import LanguageTask
from strop.training import InterruptedRunError, NonFiniteError, generators, loop, train


class Recorder:
    """Like a CUDA graph it does nothing when it records, and knows nothing but the memory it was given."""

    def __init__(self):
        self.ran = self.recorded = self.replayed = 0
        self.just_ran = False

    def run(self, work):
        self.ran += 1
        self.just_ran = True
        return work()

    def record(self, work):
        self.recorded += 1
        assert self.just_ran

        def replay():
            self.replayed += 1
            work()

        return replay


class CapturableTask(ToyTask):
    capturable = True


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(loop, "recorder_for", lambda device: recorder)
    restore = generators.restore

    def restoring(*state):
        recorder.just_ran = False  # after it cuDNN's dropout must be called once before it can be captured
        restore(*state)

    monkeypatch.setattr(generators, "restore", restoring)
    return recorder


def test_captured_steps_are_the_same_steps(tmp_path, recorder):
    eager = train(ToyTask(), options(tmp_path / "eager", clip=0.5, evaluations=3))
    captured = train(CapturableTask(), options(tmp_path / "captured", clip=0.5, evaluations=3))
    assert_same(last_weights(tmp_path / "eager"), last_weights(tmp_path / "captured"))
    same = ("step", "words", "rate", "train_loss", "valid_loss")
    for ours, theirs in zip(captured.rows, eager.rows, strict=True):
        assert [ours[name] for name in same] == [theirs[name] for name in same]
    # Two epochs at the full rate, one at another.
    assert (recorder.ran, recorder.recorded, recorder.replayed) == (3 + 1, 2, 36 - 3 - 1)
    assert set(captured.phase_ms) == {"data", "graph", "step"}
    assert set(captured.phase_seconds) == {"data", "graph"}


def test_a_captured_run_resumes(tmp_path, recorder):
    train(ToyTask(), options(tmp_path / "eager"))
    with pytest.raises(InterruptedRunError):
        train(CapturableTask(signal_at=17), options(tmp_path / "stopped"))
    train(CapturableTask(), options(tmp_path / "stopped", resume=True))
    assert_same(last_weights(tmp_path / "eager"), last_weights(tmp_path / "stopped"))
    assert recorder.replayed == 36 - 2 * 3 - 1


def test_a_batch_of_another_shape_is_trained_on_without_the_graph(tmp_path, recorder):
    class Ragged(CapturableTask):
        def batches(self, epoch, start):
            for index, (step, x, y) in enumerate(super().batches(epoch, start), start):
                yield (step, x[:3], y[:3]) if index % 4 == 3 else (step, x, y)

    class EagerRagged(Ragged):
        capturable = False

    train(EagerRagged(), options(tmp_path / "eager"))
    train(Ragged(), options(tmp_path / "captured"))
    assert_same(last_weights(tmp_path / "eager"), last_weights(tmp_path / "captured"))
    assert (recorder.ran, recorder.replayed) == (3 + 1 + 9, 36 - 3 - 1 - 9)


def test_what_cannot_be_captured_is_trained_all_the_same(tmp_path, recorder, monkeypatch, caplog):
    def refuse(work):
        recorder.recorded += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorder, "record", refuse)
    with caplog.at_level(logging.WARNING, "strop"):
        train(CapturableTask(), options(tmp_path / "captured"))
    assert "not captured in a CUDA graph, which is slower: operation not permitted" in caplog.text
    assert (recorder.ran, recorder.recorded) == (36, 1)
    train(ToyTask(), options(tmp_path / "eager"))
    assert_same(last_weights(tmp_path / "eager"), last_weights(tmp_path / "captured"))


def test_a_loss_that_is_no_number_ends_a_captured_run(tmp_path, recorder):
    class Spoilt(CapturableTask):
        def batches(self, epoch, start):
            for step, x, y in super().batches(epoch, start):
                if step == 8:
                    with torch.no_grad():
                        self.model.output.bias.fill_(float("nan"))
                yield step, x, y

    with pytest.raises(NonFiniteError, match="step 8: the loss is nan"):
        train(Spoilt(), options(tmp_path / "run"))


@pytest.mark.parametrize(("task", "capture"), [(ToyTask, True), (CapturableTask, False)])
def test_nothing_is_captured_unasked(tmp_path, recorder, task, capture):
    train(task(), options(tmp_path / "run", epochs=1, capture=capture))
    assert recorder.ran == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("dropout", ["nr-random", "nr-st", "nr-rh-st"])
def test_a_language_model_on_a_gpu(tmp_path, dropout, caplog):
    ids = torch.arange(4000) % 17
    vocabulary = Vocabulary(["<unk>", "<eos>", *(f"word{i}" for i in range(15))])
    corpus = Corpus("numbers", vocabulary, ids, ids[:500], ids[:500])
    for p in (0.0, 0.3):
        preset = Preset(40, 2, 10, 8, p, 0.1, 1.0, 1.2, 1, 5.0, 4)
        losses = {}
        for capture in (False, True):
            task = LanguageTask(corpus, preset, dropout, device="cuda")
            out = tmp_path / f"{p}-{capture}"
            result = train(task, options(out, epochs=4, clip=5.0, capture=capture))
            losses[capture] = [row["valid_perplexity"] for row in islice(result.rows, 2)]
            assert ("graph" in result.phase_ms) == capture
            assert result.rows[-1]["valid_perplexity"] < 0.7 * 17
        if p == 0:
            assert losses[True] == pytest.approx(losses[False], rel=0.02)
    assert "not captured" not in caplog.text
