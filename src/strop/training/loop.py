"""The training loop: steps, evaluations, checkpoints, and going on after a stop as if there had been none.

A run is a function of its task and seed. Its whole state is the step number, weights, optimiser, carry
and generators, all kept in a checkpoint, so a run killed at any step and resumed ends with the same bits.
"""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from strop.ops import dispatch
from strop.training import generators, tree
from strop.training.averaging import NtAsgd
from strop.training.best import Best
from strop.training.captured import CapturedSteps, recorder_for
from strop.training.checkpoint import Checkpoint, CheckpointStore
from strop.training.clock import StepClock
from strop.training.curves import CurveWriter
from strop.training.distributed import World, stream_seed
from strop.training.errors import CheckpointError, InterruptedRunError, NonFiniteError, RunError
from strop.training.folder import RunFolder
from strop.training.identity import expect_same
from strop.training.losses import Losses
from strop.training.memory import reuse_freed_pages
from strop.training.progress import Progress, Silent, Status, describe
from strop.training.run import LoopOptions, Result
from strop.training.schedule import evaluation_steps
from strop.training.signals import StopNow, StopSignal
from strop.training.slowness import SlowSteps
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
        self.clock = StepClock(self.device)
        self.step = self.evaluated = self.items = 0
        self.best = Best(f"valid_{task.metric}", task.goal)
        self.carry: Any = None
        self.make_step: Step | None = None
        self.captured: CapturedSteps | None = None
        self.curve: CurveWriter | None = None
        self.batches: Iterator[Any] = iter(())
        self.losses = Losses()
        self.slow = SlowSteps()
        self.saved_step = -1
        self.stopping = self.save_soon = False

    def result(self) -> Result:
        if self.device.type == "cpu":
            reuse_freed_pages()
        with StopSignal(self.world.size == 1, self._lost) as self.signal:
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
                self.folder.curve, self.step, self.options.tensorboard, plot, self.evaluated
            )
        self.logged = (self.clock.total(), self.items)
        self.last_save = self.session_start = time.monotonic()
        self.session_step = self.step

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
        if len(saved.ranks) != self.world.size:
            raise CheckpointError(
                f"{path}: written by {len(saved.ranks)} processes, now there are {self.world.size}; "
                f"resume with torchrun --nproc-per-node {len(saved.ranks)}"
            )
        own = saved.ranks[self.world.rank]
        self.task.model.load_state_dict(saved.weights)
        self.task.optimizer.load_state_dict(saved.optimizer)
        generators.restore(own["generators"], self.task.generators, self.device)
        self.carry = tree.map_tensors(lambda tensor: tensor.to(self.device), own["carry"])
        self.step = self.saved_step = saved.step
        state = saved.progress
        self.evaluated, self.items = state["evaluated"], state["items"]
        self.best.row = dict(state["best"])
        self.best.waited = state.get("waited", 0)  # 0 in checkpoints older than early stopping
        self.losses.total, self.losses.items = state["loss"]
        self.losses.recent = state["recent"]
        # Checkpoints older than these have none.
        self.losses.first = state.get("first", 0.0)
        self.losses.logged_total, self.losses.logged_items = state.get("logged", (0.0, 0.0))
        self.slow = SlowSteps(state.get("lost", 0.0))
        # Checkpoints older than these medians have none.
        self.clock.go_on_from(state["seconds"], state.get("phase_ms", {}))
        if self.step > self.total_steps:
            raise RunError(
                f"epochs: {self.options.epochs} are {self.total_steps} steps, "
                f"but the run in {self.options.out} is at step {self.step} already"
            )
        self.batches = self.task.batches(*self._position())
        self.progress.say(f"resumed {self.options.out} at step {self.step}")

    # Running --------------------------------------------------------------------------------------

    def _loop(self) -> None:
        self.task.model.train()
        while True:
            epoch, index = self._position()
            ends_epoch = self.step > 0 and index == 0
            try:
                if self.evaluated < self.step and (ends_epoch or index in self.evaluate_at):
                    self._evaluate()
            except StopNow:
                self.stopping = True
            given_up = self._given_up()
            first = self.saved_step < 0 and self.evaluated > 0  # so that a curve without one has lost it
            due = ends_epoch or given_up or first or self.save_soon or self.stopping
            if self.saved_step < self.step and due:
                self._save()
            if (ends_epoch or given_up) and self.curve is not None:
                self.curve.draw()
            if self.stopping:
                raise self._interruption()
            if given_up:
                self.progress.say(
                    f"stopped early: no better {self.task.metric} in {self.best.waited} evaluations"
                )
            if given_up or self.step >= self.total_steps:
                return
            if self.folder is not None and self.step == self.session_step:
                self.folder.forget_report()
            if index == 0:
                self.batches, self.carry = self.task.batches(epoch, 0), self.task.first_carry()
            self._train_step(epoch)

    def _position(self) -> tuple[int, int]:
        """Epoch, and number of the batch in it, of the next step."""
        return divmod(self.step, self.task.steps_per_epoch)

    def _train_step(self, epoch: int) -> None:
        assert self.make_step is not None
        optimizer = self.task.optimizer
        factor = self.task.schedule(epoch, self.step)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        started = time.perf_counter()
        self.clock.start()
        batch = next(self.batches)
        self.clock.lap("data")
        if self.captured is None:
            made = self.make_step(batch, self.carry, self.clock.lap, self._note)
        else:
            made = self.captured(batch, self.carry, [group["lr"] for group in optimizer.param_groups])
            self.clock.lap("graph")
            self._note(made)
        self.carry = made.carry
        self.step += 1
        if self.device.type == "cpu" and (slow := self.slow.observe(time.perf_counter() - started)):
            self.progress.say(slow)
        if self.options.log_steps and self.step % self.options.log_steps == 0:
            self._log()
        if self.progress.due():
            self.progress.show(self._status())

    def _note(self, made: Made) -> None:
        self.losses.note(self.step, made)
        if self.device.type == "cpu" or self.losses.unseen >= _CHECK_EVERY:
            self._check()

    def _check(self) -> None:
        """Looks at the losses since the last look, and agrees with the other processes on what to do.

        Raises NonFiniteError, on a CPU before the step that would have spoilt the weights.
        """
        if not self.losses.unseen:
            return
        seen = self.losses.look()
        due = time.monotonic() - self.last_save >= self.options.checkpoint_seconds
        said = [seen.total, seen.items, seen.spoilt is not None, self.signal.number is not None]
        total, items, spoilt, stop, save = self.world.sum([*said, due and self.world.leads])
        if seen.spoilt is not None:
            raise NonFiniteError(self._spoilt(*seen.spoilt))
        if spoilt:
            raise NonFiniteError(f"another process met a loss that is not finite by step {self.step}")
        self.losses.count(total, items, max(0.02, seen.steps / (self.step + 1)))
        self.items += int(items)
        self.stopping, self.save_soon = bool(stop), bool(save)
        if (wrong := self.losses.judge_scale(self.step)) is not None:
            raise NonFiniteError(self._spoilt(wrong))

    def _log(self) -> None:
        """A row of training losses, where no evaluation is about to add one."""
        self._check()
        mean = self.losses.logged_mean()
        _, index = self._position()
        if self.curve is None or index == 0 or index in self.evaluate_at:
            return
        self.clock.settle()
        self.curve.append(self._row(self.task.summary(mean)))

    def _evaluate(self) -> None:
        self._check()
        self.clock.settle()
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
            raise NonFiniteError(self._spoilt(f"the valid {self.task.metric} is {value:g}"))
        summary = self.task.summary(self.losses.mean())
        row = self._row(summary) | {f"valid_{name}": value for name, value in metrics.items()}
        shown = {name: value for name, value in row.items() if name.startswith(("train_", "valid_"))}
        del shown["train_seconds"]
        self.evaluated = self.step
        better = self.best.observe(row)
        if self.folder is not None and self.curve is not None:
            self.curve.append(row)
            if better:
                self.folder.checkpoints.save_best(self.step, self.task.model.state_dict(), row)
        self.progress.say(f"epoch {row['epoch']:.2f} · {describe(shown)}{' · best so far' if better else ''}")
        return value if self.task.goal == "min" else -value

    def _row(self, summary: Mapping[str, float]) -> dict[str, float]:
        """Where training stands, for the curve; `summary` is that of its losses."""
        seconds, items = self.clock.total(), self.items
        logged, self.logged = self.logged, (seconds, items)
        return {
            "step": self.step,
            "epoch": self.step / self.task.steps_per_epoch,
            "train_seconds": seconds,
            self.task.items: items,
            f"{self.task.items}_per_second": (items - logged[1]) / max(seconds - logged[0], 1e-9),
            "rate": self.task.optimizer.param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in summary.items()},
        }

    def _save(self) -> None:
        self._check()
        self.clock.settle()
        state = {
            "carry": self.carry,
            "generators": generators.capture(self.task.generators, self.device),
        }
        ranks = self.world.gather(tree.to_bytes(state))
        if self.folder is not None:
            progress = {
                "evaluated": self.evaluated,
                "items": self.items,
                "best": self.best.row,
                "loss": [self.losses.total, self.losses.items],
                "recent": self.losses.recent,
                "first": self.losses.first,
                "logged": [self.losses.logged_total, self.losses.logged_items],
                "lost": self.slow.lost,
                "waited": self.best.waited,
                "seconds": self.clock.seconds,
                "phase_ms": self.clock.medians_ms(),
            }
            self.folder.checkpoints.save(
                Checkpoint(
                    step=self.step,
                    weights=self.task.model.state_dict(),
                    optimizer=self.task.optimizer.state_dict(),
                    ranks=ranks,
                    progress=progress,
                    identity=self._identity(),
                    best_step=self.best.step,
                )
            )
        self.saved_step = self.step
        self.save_soon = False
        self.last_save = time.monotonic()

    # Ending ---------------------------------------------------------------------------------------

    def _finish(self) -> Result:
        test: dict[str, float] = {}
        if self.folder is not None:
            assert self.best.step is not None
            self.task.model.load_state_dict(self.folder.checkpoints.load_best(self.best.step))
            try:
                with self.signal.interruptible():
                    test = self.task.evaluate("test")
            except StopNow:
                raise self._interruption() from None
        result = Result(
            rows=self.curve.rows if self.curve is not None else [],
            best=self.best.row,
            test=self.world.from_leader(test),
            steps=self.step,
            train_seconds=self.clock.total(),
            phase_seconds=dict(self.clock.seconds),
            phase_ms=self.clock.medians_ms(),
            items_per_second=self.items / self.clock.total(),
            metric=self.task.metric,
            goal=self.task.goal,
            items=self.task.items,
            folder=str(self.options.out),
            lost_seconds=self.slow.lost,
        )
        if self.folder is not None:
            self.folder.report(asdict(result))
        return result

    def _interruption(self) -> InterruptedRunError:
        return InterruptedRunError(
            f"stopped at step {self.step} of {self.total_steps}, all saved in {self.options.out}; "
            f"to go on: {self.options.resume_hint}",
            self.signal.number or signal.SIGINT,
        )

    def _lost(self) -> str:
        """What leaving without saving loses."""
        if self.saved_step < 0:
            return f"left at step {self.step}: nothing was saved yet in {self.options.out}"
        lost = self.step - self.saved_step
        return (
            f"left at step {self.step}; lost since the last checkpoint: {lost} step{'s' * (lost != 1)}; "
            f"to go on from there: {self.options.resume_hint}"
        )

    def _spoilt(self, what: str, step: int | None = None) -> str:
        last = self.folder.checkpoints.latest() if self.folder is not None else None
        return (
            f"step {self.step if step is None else step}: {what}, so training was stopped; "
            f"last good checkpoint: {last or 'none yet'}. A lower learning rate or tighter clipping may help"
        )

    # Odds and ends --------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            **self.task.identity,
            "seed": self.options.seed,
            "clip": self.options.clip,
            # No word of it in older checkpoints.
            **({"bf16": True} if self.options.bf16 else {}),
            "device": self.device.type,
            "steps_per_epoch": self.task.steps_per_epoch,
        }

    def _given_up(self) -> bool:
        return self.options.patience is not None and self.best.waited >= self.options.patience

    def _status(self) -> Status:
        took = time.monotonic() - self.session_start
        done = self.step - self.session_step
        return Status(
            step=self.step,
            steps=self.total_steps,
            epoch=self.step / self.task.steps_per_epoch,
            epochs=self.options.epochs,
            metrics=self.task.summary(self.losses.recent),
            items=self.task.items,
            items_per_second=self.items / max(self.clock.total(), 1e-9),
            seconds_left=took / done * (self.total_steps - self.step) if done else math.nan,
        )
