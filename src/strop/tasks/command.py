"""What the command of every task does around its training. A new task's command is

    @dataclass(frozen=True)
    class Options(TrainOptions):                    # from strop.tasks.options
        '''Help of the command, with `Attributes:` for its own fields.'''

        command: ClassVar[str] = "train toy"
        preset: str = "small"

        @property
        def default_folder(self) -> Path:
            return Path("runs") / f"toy-{self.preset}"

    def run(options: Options) -> int:
        return command.run(options, options.preset, lambda session: _train(options, session))

    def _train(options: Options, session: Session) -> Result:
        corpus = load(options.data)                 # its errors are one clear line for the user
        session.say(corpus.describe())
        task = ToyTask(corpus, seed=options.seed, device=session.device, world=session.world)
        files = {"vocabulary.json": corpus.vocabulary.to_json()}
        return session.train(task, epochs=options.epochs or 10, clip=5.0, files=files)

and one line in `strop.cli`; a task's package offers `Options` and `run`. `--resume`, `--config`,
`--patience`, devices, threads, processes, progress, checkpoints, curves and the final report come with it.
What was trained is read back by `strop.training.read_trained(folder)`: best weights and task's identity.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from strop.limits import check_sizes, find_device, use_threads
from strop.tasks.files import with_digests
from strop.tasks.options import TrainOptions
from strop.training import LoopOptions, Progress, Result, Silent, Task, World, for_stdout, train, world
from strop.training.progress import describe


@dataclass(frozen=True)
class Session:
    """A command at work: where it trains, with which processes, and how it reports."""

    options: TrainOptions
    device: torch.device
    world: World
    progress: Progress

    def say(self, message: str) -> None:
        """A line for the user, from the leading process only."""
        self.progress.say(message)

    def train(
        self,
        task: Task,
        *,
        epochs: int,
        clip: float | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Result:
        """Trains `task` as the common options say.

        `files` are texts that the run's folder keeps, by name: vocabularies and the like. Raises
        `strop.training.RunError` and ValueError.
        """
        options = self.options
        # Torch's own choice as a number: whoever goes on, wherever, needs the same.
        described = replace(options, threads=torch.get_num_threads()).describe()
        loop = LoopOptions(
            options.folder,
            epochs=epochs,
            seed=options.seed,
            clip=clip,
            bf16=options.bf16,
            evaluations=options.evaluations,
            log_steps=options.log_steps,
            checkpoint_seconds=options.checkpoint_seconds,
            patience=options.patience,
            resume=options.resume,
            capture=options.capture,
            tensorboard=options.tensorboard,
            description=with_digests(described, files or {}),
            files=files or {},
            resume_hint=_resume(options.command, options.folder, self.world),
        )
        return train(task, loop, self.world, self.progress)


def run(options: TrainOptions, title: str, body: Callable[[Session], Result]) -> int:
    """Runs `body` and reports what came of it; the exit status.

    `title` stands before the progress bar. Raises ValueError for a device, a number of threads or a seed
    that cannot be had, before anything is read.
    """
    device = find_device(options.device)
    check_sizes(options)
    _check_loop(options)
    use_threads(options.threads)
    if device.type == "cuda":
        # As cuDNN's layers by default: else those of the baseline alone would run on tensor cores.
        torch.set_float32_matmul_precision("high")
    with world() as processes:
        progress = for_stdout(title) if processes.leads else Silent()
        try:
            result = body(Session(options, device, processes, progress))
        finally:
            progress.close()
        if processes.leads:
            print(report(result))
    return 0


def _check_loop(options: TrainOptions) -> None:
    """Raises ValueError for what no loop can be asked for, before data is read and prepared."""
    LoopOptions(
        options.folder,
        epochs=1 if options.epochs is None else options.epochs,
        evaluations=options.evaluations,
        log_steps=options.log_steps,
        checkpoint_seconds=options.checkpoint_seconds,
        patience=options.patience,
    )


def report(result: Result) -> str:
    """What came of a run, in a few lines."""
    best = result.best[f"valid_{result.metric}"]
    lines = [
        f"best after epoch {result.best['epoch']:.2f}: valid {describe({result.metric: best})}, "
        f"test {describe(result.test)}",
        f"{result.steps:,} steps in {result.train_seconds:,.1f} s of training, "
        f"{result.items_per_second:,.0f} {result.items}/s",
    ]
    if result.phase_ms:
        phases = ", ".join(f"{name} {ms:.1f}" for name, ms in result.phase_ms.items())
        lines.append(f"median ms per step: {phases}")
    lines.append(f"all files in {result.folder}")
    return "\n".join(lines)


def _resume(command: str, folder: Path, processes: World) -> str:
    """What to type to go on with a run."""
    launcher = f"torchrun --standalone --nproc-per-node {processes.size} -m " if processes.size > 1 else ""
    return f"{launcher}strop {command} --out {shlex.quote(str(folder))} --resume"
