"""Trainings that take turns every few steps, so that they are timed under the same circumstances."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from strop.data.text import Corpus
from strop.tasks.language.presets import DROPOUTS, Dropout, Preset
from strop.tasks.language.task import LanguageTask
from strop.tasks.metrics import perplexity_of
from strop.training import NonFiniteError, Progress, Status, reuse_freed_pages
from strop.training.clock import StepClock
from strop.training.distributed import stream_seed
from strop.training.gradients import clipped_step, gradient_norm
from strop.training.progress import counted, describe

EVALUATIONS = 4  # per epoch
_TURN = 10  # steps, or fewer on a machine that would need long for them
_ROUND = 2.0  # seconds that a turn of each may take
# Share of the time allowed that is planned with; the rest is for what the machine does meanwhile.
_PLANNED = 0.85


class Racer:
    """A language model in training with one kind of dropout, a few steps at a time.

    It has its own random stream: its weights become those of `strop train lm` with the same seed, whatever
    else runs in between.

    Attributes:
        clock: times the training, evaluations excluded.
        rows: the learning curve, from before the first step on, see `strop.training.curves`.
        test: perplexity of the test text, once `finish` was called.
        recent: training loss per word, a mean of the first steps, then over about the last fifty.
    """

    def __init__(self, corpus: Corpus, preset: Preset, dropout: Dropout, seed: int) -> None:
        self.dropout: Dropout = dropout
        self.step = 0
        self.rows: list[dict[str, float]] = []
        self.test = math.nan
        self.recent = 0.0
        self._task = LanguageTask(corpus, preset, dropout, seed=seed)
        self._preset = preset
        self._parameters = list(self._task.model.parameters())
        self._random = torch.Generator().manual_seed(stream_seed(seed, 0)).get_state()
        self.clock = StepClock(self._parameters[0].device)

    @property
    def steps_per_epoch(self) -> int:
        return self._task.steps_per_epoch

    def advance(self, steps: int) -> None:
        """Trains for `steps` steps."""
        self._task.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random)
            for _ in range(steps):
                self._train_step()
            self._random = torch.get_rng_state()

    def evaluate(self) -> None:
        """Adds a row to the curve. Raises NonFiniteError where the model has become useless."""
        perplexity = self._task.evaluate("valid")["perplexity"]
        if not math.isfinite(perplexity):
            raise NonFiniteError(
                f"{self.dropout}, step {self.step}: the valid perplexity is {perplexity}, so the demo was "
                "stopped; this text needs another learning rate (strop train lm --rate)"
            )
        self.rows.append(
            {
                "step": self.step,
                "epoch": self.step / self.steps_per_epoch,
                "train_seconds": self.clock.total(),
                "valid_perplexity": perplexity,
            }
        )

    def finish(self) -> None:
        self.test = self._task.evaluate("test")["perplexity"]

    def _train_step(self) -> None:
        task, optimizer = self._task, self._task.optimizer
        epoch, index = divmod(self.step, task.steps_per_epoch)
        if index == 0:
            self._batches, self._carry = task.batches(epoch, 0), task.first_carry()
            for group in optimizer.param_groups:
                group["lr"] = self._preset.rate * task.schedule(epoch, self.step)
        self.clock.start()
        batch = next(self._batches)
        self.clock.lap("data")
        outcome = task.loss(task.model, batch, self._carry)
        self.clock.lap("forward")
        optimizer.zero_grad()
        outcome.loss.backward()
        self.clock.lap("backward")
        norm = gradient_norm(self._parameters)
        clipped_step(optimizer, self._parameters, norm, self._preset.clip)
        self.clock.lap("optimiser")
        self._carry = outcome.carry
        self.recent += max(0.02, 1 / (self.step + 1)) * (outcome.mean.item() - self.recent)
        self.step += 1


def race(corpus: Corpus, preset: Preset, seed: int, deadline: float, progress: Progress) -> list[Racer]:
    """Trains with every kind of dropout, equally long: the preset's epochs, or as many as there is time for.

    `deadline` is a time of `time.monotonic`. How long an epoch will take is measured first. Should the
    machine become slower than it was then, all stop early, after the same number of steps.
    """
    reuse_freed_pages()
    cost = _measure(corpus, preset)
    epochs = cost.epochs_in(_PLANNED * (deadline - time.monotonic()))
    preset = shortened(preset, max(1, min(preset.epochs, epochs)))
    epochs, epoch = preset.epochs, cost.steps_per_epoch
    racers = _racers(corpus, preset, seed)
    progress.say(
        f"{' · '.join(DROPOUTS)}: {preset.layers} layers of {preset.units} units, p {preset.p}, "
        f"{epochs} epoch{'s' * (epochs > 1)} of {epoch} steps, {counted(torch.get_num_threads(), 'thread')}"
    )
    _evaluate(racers)
    evaluate_at = sorted({max(1, round(epoch / EVALUATIONS * (i + 1))) for i in range(EVALUATIONS)})
    turn = max(1, min(_TURN, int(_ROUND / cost.step)))
    last, step = epochs * epoch, 0
    started = time.monotonic()
    while step < last:
        done = step % epoch
        stop = min(done + turn, next(at for at in evaluate_at if at > done))
        for racer in racers:
            racer.advance(stop - done)
        step += stop - done
        # The last evaluation, the test, and the report are still to come.
        if time.monotonic() > deadline - 3 * cost.evaluation:
            progress.say(f"time is running out: stopped after {step} of {last} steps")
            last = step
        if step == last or stop in evaluate_at:
            _evaluate(racers)
            progress.say(f"epoch {step / epoch:.2f} · valid perplexity: {describe(_metrics(racers))}")
        if progress.due():
            took = time.monotonic() - started
            words = len(racers) * step * preset.steps * preset.batch
            progress.show(
                Status(
                    step=step,
                    steps=last,
                    epoch=step / epoch,
                    epochs=epochs,
                    metrics=_training(racers),
                    items="words",
                    items_per_second=words / sum(racer.clock.total() for racer in racers),
                    seconds_left=took / step * (last - step),
                )
            )
    for racer in racers:
        racer.finish()
    return racers


def shortened(preset: Preset, epochs: int) -> Preset:
    """The preset with so many epochs; its learning rate begins to fall as long before the end."""
    decay_after = max(0, preset.decay_after - (preset.epochs - epochs))
    return replace(preset, epochs=epochs, decay_after=decay_after)


def choose_threads(corpus: Corpus, preset: Preset) -> None:
    """Takes one thread where that is faster than torch's choice.

    Where other programs keep the cores busy, several threads mostly wait for each other.
    """
    several = torch.get_num_threads()
    if several > 1:
        racers = _racers(corpus, preset)
        torch.set_num_threads(1)
        alone = _step_seconds(racers, 2)
        torch.set_num_threads(several)
        if _step_seconds(racers, 2) > alone:
            torch.set_num_threads(1)


@dataclass(frozen=True)
class _Cost:
    """Seconds of a training step and of an evaluation, of all kinds together."""

    step: float
    evaluation: float
    steps_per_epoch: int

    def epochs_in(self, seconds: float) -> int:
        """The epochs that fit, the evaluation before them and the test included."""
        epoch = self.step * self.steps_per_epoch + self.evaluation * EVALUATIONS
        return int((seconds - 2 * self.evaluation) / epoch)


def _measure(corpus: Corpus, preset: Preset) -> _Cost:
    """By training models that are then thrown away."""
    racers = _racers(corpus, preset)
    step = _step_seconds(racers, _TURN)
    start = time.monotonic()
    _evaluate(racers)
    return _Cost(step, time.monotonic() - start, racers[0].steps_per_epoch)


def _step_seconds(racers: Sequence[Racer], steps: int) -> float:
    """Of all racers together."""
    for racer in racers:
        racer.advance(1)  # the first step takes longer
        racer.clock = StepClock(torch.device("cpu"))
    for racer in racers:
        racer.advance(steps)
    return sum(racer.clock.total() for racer in racers) / steps


def _racers(corpus: Corpus, preset: Preset, seed: int = 0) -> list[Racer]:
    return [Racer(corpus, preset, dropout, seed) for dropout in DROPOUTS]


def _evaluate(racers: Sequence[Racer]) -> None:
    for racer in racers:
        racer.evaluate()


def _training(racers: Sequence[Racer]) -> dict[str, float]:
    """The perplexity of the text that was trained on lately: evaluations are too far between to show
    progress."""
    names = [f"training: {racers[0].dropout}", *(racer.dropout for racer in racers[1:])]
    return {name: perplexity_of(racer.recent) for name, racer in zip(names, racers, strict=True)}


def _metrics(racers: Sequence[Racer]) -> dict[str, float]:
    return {racer.dropout: racer.rows[-1]["valid_perplexity"] for racer in racers}
