"""The training loop: steps, evaluations, checkpoints, and going on after a stop as if there had been none.

A run is a function of its task and seed. Its whole state is the step number, weights, optimiser, carry
and generators, all kept in a checkpoint, so a run killed at any step and resumed ends with the same bits.
"""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from strop.ops import dispatch
from strop.training import generators
from strop.training.account import Account
from strop.training.averaging import NtAsgd
from strop.training.captured import CapturedSteps, recorder_for
from strop.training.checkpoint import CheckpointStore
from strop.training.curves import CurveWriter
from strop.training.distributed import World, stream_seed
from strop.training.errors import InterruptedRunError, NonFiniteError, RunError
from strop.training.folder import RunFolder
from strop.training.identity import expect_same
from strop.training.memory import reuse_freed_pages
from strop.training.progress import Progress, Silent, describe
from strop.training.run import LoopOptions, Result
from strop.training.schedule import evaluation_steps
from strop.training.signals import StopNow, StopSignal
from strop.training.state import RunState
from strop.training.step import Made, Step
from strop.training.task import Task

# Steps between looks at the losses on a device that the host would have to wait for.
_CHECK_EVERY = 32


def train(
    task: Task, options: LoopOptions, world: World | None = None, progress: Progress | None = None
) -> Result:
    """Trains `task`, and tests its best weights, which the leader's model then holds.

    `progress` stays open: who made it closes it. Raises RunError in one of its kinds: a folder or
    checkpoint that cannot be used, a loss that is no number, an interruption.
    """
    return _Run(task, options, world or World(), progress or Silent()).result()


class _Run:
    def __init__(self, task: Task, options: LoopOptions, world: World, progress: Progress) -> None:
        self.task, self.options, self.world, self.progress = task, options, world, progress
        self.parameters = [p for p in task.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("task.model: no parameter requires a gradient")
        self.device = self.parameters[0].device
        self.rates = [group["lr"] for group in task.optimizer.param_groups]
        self.total_steps = options.epochs * task.steps_per_epoch
        self.evaluate_at = evaluation_steps(options.evaluations, task.steps_per_epoch)
        self.state = RunState(task, self.device)
        self.account = Account(task, options, self.state)
        self.make_step: Step | None = None
        self.captured: CapturedSteps | None = None
        self.curve: CurveWriter | None = None
        self.batches: Iterator[Any] = iter(())
        self.stopping = self.save_soon = False

    def result(self) -> Result:
        if self.device.type == "cpu":
            reuse_freed_pages()
        with StopSignal(self.world.size == 1, self.account.left) as self.signal:
            self.folder = self._open_folder()
            try:
                self._begin()
                try:
                    self._loop()
                    return self._finish()
                finally:
                    if self.curve is not None:
                        self.curve.close()
            finally:
                # A traceback may keep this object; a data-parallel wrapper must go before its process group.
                self.make_step = self.captured = None
                if self.folder is not None:
                    self.folder.close()

    # Beginning ------------------------------------------------------------------------------------

    def _open_folder(self) -> RunFolder | None:
        """The run's folder, on the leader; a refusal there is one everywhere."""
        folder, refusal = None, None
        if self.world.leads:
            try:
                folder = RunFolder(self.options.out, self.options.resume)
            except RunError as error:
                refusal = error
        if (reason := self.world.from_leader(str(refusal) if refusal else None)) is not None:
            raise refusal or RunError(reason)
        return folder

    def _begin(self) -> None:
        if self.options.bf16 and (reason := dispatch.why_not_bf16(self.device)) is not None:
            self.progress.say(f"bf16: slower than float32 here, or no faster ({reason}); better left out")
        path = self.world.from_leader(self._checkpoint())
        if path is None:
            if self.options.resume:
                self.progress.say(f"no checkpoint yet in {self.options.out}: starting at step 0")
            generators.seed_all(stream_seed(self.options.seed, self.world.rank))
        else:
            self._restore(path)
        model = self.world.wrap(self.task.model)
        self.make_step = Step(self.task, model, self.parameters, self.options.clip, self.options.bf16)
        may_capture = self.options.capture and self.task.capturable and self.world.size == 1
        recorder = recorder_for(self.device) if may_capture else None
        if recorder is not None:
            self.captured = CapturedSteps(self.make_step, recorder)
        if self.folder is not None:
            if path is not None:
                self.folder.checkpoints.keep_only(path)
            measures = {name: getattr(self.task, name) for name in ("metric", "goal", "items")}
            self.folder.describe({**self.options.description, "measures": measures}, self.options.files)
            plot = f"valid_{self.task.metric}" if self.options.plot else None
            self.curve = CurveWriter(
                self.folder.curve, self.state.step, self.options.tensorboard, plot, self.state.evaluated
            )
        self.account.begin()
        self.last_save = time.monotonic()
        self.began_at = self.state.step

    def _checkpoint(self) -> Path | None:
        """On the leader, the newest checkpoint that is sound, if the run is to go on from one."""
        if self.folder is None or not self.options.resume:
            return None
        found = self.folder.checkpoints.sound()
        if found is None:
            return None
        path, _, wrong = found
        if wrong is not None:
            self.progress.say(f"{wrong}; going on from the checkpoint before it, {path.name}")
        return path

    def _restore(self, path: Path) -> None:
        saved = CheckpointStore(path.parent).load(path)
        expect_same(path, saved.identity, self._identity(), self.options.description)
        self.state.restore(path, saved, self.world)
        if self.state.step > self.total_steps:
            raise RunError(
                f"epochs: {self.options.epochs} are {self.total_steps} steps, "
                f"but the run in {self.options.out} is at step {self.state.step} already"
            )
        self.batches = self.task.batches(*self.state.position())
        self.progress.say(f"resumed {self.options.out} at step {self.state.step}")

    # Running --------------------------------------------------------------------------------------

    def _loop(self) -> None:
        self.task.model.train()
        while True:
            epoch, index = self.state.position()
            ends_epoch = self.state.step > 0 and index == 0
            try:
                if self.state.evaluated < self.state.step and (ends_epoch or index in self.evaluate_at):
                    self._evaluate()
            except StopNow:
                self.stopping = True
            given_up = self._given_up()
            # So that a curve without a checkpoint has lost it.
            first = self.state.saved < 0 and self.state.evaluated > 0
            due = ends_epoch or given_up or first or self.save_soon or self.stopping
            if self.state.saved < self.state.step and due:
                self._save()
            if (ends_epoch or given_up) and self.curve is not None:
                self.curve.draw()
            if self.stopping:
                raise self._interruption()
            if given_up:
                self.progress.say(
                    f"stopped early: no better {self.task.metric} in {self.state.best.waited} evaluations"
                )
            if given_up or self.state.step >= self.total_steps:
                return
            if self.folder is not None and self.state.step == self.began_at:
                self.folder.forget_report()
            if index == 0:
                self.batches, self.state.carry = self.task.batches(epoch, 0), self.task.first_carry()
            self._train_step(epoch)

    def _train_step(self, epoch: int) -> None:
        assert self.make_step is not None
        optimizer = self.task.optimizer
        factor = self.task.schedule(epoch, self.state.step)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        started = time.perf_counter()
        self.state.clock.start()
        batch = next(self.batches)
        self.state.clock.lap("data")
        if self.captured is None:
            made = self.make_step(batch, self.state.carry, self.state.clock.lap, self._note)
        else:
            made = self.captured(batch, self.state.carry, [group["lr"] for group in optimizer.param_groups])
            self.state.clock.lap("graph")
            self._note(made)
        self.state.carry = made.carry
        self.state.step += 1
        if self.device.type == "cpu" and (slow := self.state.slow.observe(time.perf_counter() - started)):
            self.progress.say(slow)
        if self.options.log_steps and self.state.step % self.options.log_steps == 0:
            self._log()
        if self.progress.due():
            self.progress.show(self.account.status())

    def _note(self, made: Made) -> None:
        self.state.losses.note(self.state.step, made)
        if self.device.type == "cpu" or self.state.losses.unseen >= _CHECK_EVERY:
            self._check()

    def _check(self) -> None:
        """Looks at the losses since the last look, and agrees with the other processes on what to do.

        Raises NonFiniteError, on a CPU before the step that would have spoilt the weights.
        """
        if not self.state.losses.unseen:
            return
        seen = self.state.losses.look()
        due = time.monotonic() - self.last_save >= self.options.checkpoint_seconds
        said = [seen.total, seen.items, seen.spoilt is not None, self.signal.number is not None]
        total, items, spoilt, stop, save = self.world.sum([*said, due and self.world.leads])
        if seen.spoilt is not None:
            raise self._spoilt(*seen.spoilt)
        if spoilt:
            raise NonFiniteError(f"another process met a loss that is not finite by step {self.state.step}")
        self.state.losses.count(total, items, max(0.02, seen.steps / (self.state.step + 1)))
        self.state.items += int(items)
        self.stopping, self.save_soon = bool(stop), bool(save)
        if (wrong := self.state.losses.judge_scale(self.state.step)) is not None:
            raise self._spoilt(wrong)

    def _log(self) -> None:
        """A row of training losses, where no evaluation is about to add one."""
        self._check()
        mean = self.state.losses.logged_mean()
        _, index = self.state.position()
        if self.curve is None or index == 0 or index in self.evaluate_at:
            return
        self.state.clock.settle()
        self.curve.append(self.account.row(self.task.summary(mean)))

    def _evaluate(self) -> None:
        self._check()
        self.state.clock.settle()
        optimizer = self.task.optimizer
        with optimizer.averaged() if isinstance(optimizer, NtAsgd) else nullcontext():
            loss = self._judge()
        if isinstance(optimizer, NtAsgd):
            optimizer.observe(loss)

    def _judge(self) -> float:
        """Evaluates the weights that the model holds, keeps the best; the metric, lower being better."""
        with self.signal.interruptible(), generators.preserved(self.task.generators, self.device):
            metrics = self.task.evaluate("valid") if self.world.leads else {}
        self.task.model.train()
        metrics = self.world.from_leader(metrics)
        value = metrics[self.task.metric]
        if not math.isfinite(value):
            raise self._spoilt(f"the valid {self.task.metric} is {value:g}")
        summary = self.task.summary(self.state.losses.mean())
        row = self.account.row(summary) | {f"valid_{name}": value for name, value in metrics.items()}
        shown = {name: value for name, value in row.items() if name.startswith(("train_", "valid_"))}
        del shown["train_seconds"]
        self.state.evaluated = self.state.step
        better = self.state.best.observe(row)
        if self.folder is not None and self.curve is not None:
            self.curve.append(row)
            if better:
                self.folder.checkpoints.save_best(self.state.step, self.task.model.state_dict(), row)
        self.progress.say(f"epoch {row['epoch']:.2f} · {describe(shown)}{' · best so far' if better else ''}")
        return value if self.task.goal == "min" else -value

    def _save(self) -> None:
        self._check()
        self.state.clock.settle()
        ranks = self.world.gather(self.state.of_process())
        if self.folder is not None:
            self.folder.checkpoints.save(self.state.checkpoint(ranks, self._identity()))
        self.state.saved = self.state.step
        self.save_soon = False
        self.last_save = time.monotonic()

    # Ending ---------------------------------------------------------------------------------------

    def _finish(self) -> Result:
        test: dict[str, float] = {}
        if self.folder is not None:
            assert self.state.best.step is not None
            self.task.model.load_state_dict(self.folder.checkpoints.load_best(self.state.best.step))
            try:
                with self.signal.interruptible():
                    test = self.task.evaluate("test")
            except StopNow:
                raise self._interruption() from None
        rows = self.curve.rows if self.curve is not None else []
        result = self.account.result(rows, self.world.from_leader(test))
        if self.folder is not None:
            self.folder.report(asdict(result))
        return result

    def _interruption(self) -> InterruptedRunError:
        return InterruptedRunError(self.account.stopped(), self.signal.number or signal.SIGINT)

    def _spoilt(self, what: str, step: int | None = None) -> NonFiniteError:
        last = self.folder.checkpoints.latest() if self.folder is not None else None
        return NonFiniteError(self.account.spoilt(what, last, step))

    # Odds and ends --------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            **self.task.identity,
            "seed": self.options.seed,
            "clip": self.options.clip,
            # No word of it in older checkpoints.
            **({"bf16": True} if self.options.bf16 else {}),
            "device": self.device.type,
            # With others torch's operators divide their sums otherwise, which rounds differently.
            **({"threads": torch.get_num_threads()} if self.device.type == "cpu" else {}),
            "steps_per_epoch": self.task.steps_per_epoch,
        }

    def _given_up(self) -> bool:
        return self.options.patience is not None and self.state.best.waited >= self.options.patience
