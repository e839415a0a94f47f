"""What ends a run for a reason that its user can act upon: one clear line each, no traceback needed."""


class RunError(Exception):
    """A run cannot start or go on. The message says what was wrong with what, and what to do."""


class RunFolderError(RunError):
    """The run folder cannot be used: not writable, not empty, held by another process."""


class CheckpointError(RunError):
    """A checkpoint is damaged, foreign, or of another run."""


class NonFiniteError(RunError):
    """The loss, the gradient, a validation or what a model says stopped being a number."""


class InterruptedRunError(RunError):
    """A signal ended the run after its state was saved; `signal` is its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
