"""Follow a training while it runs: log its steps to the tracking store, and show step, loss and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.tracking.record import record_step
from shutterless.workflows.tracking.tracking import Run


@contextmanager
def follow_training(run: Run | None, progress: Progress | None, describe: str) -> Iterator[list[TrainerCallback]]:
    """Callbacks for `shutterless.workflows.training.train.fit_detector`.

    Parameters
    ----------
    run : Run, optional
        Where every row of the history is logged. A store that does not answer stops no training: what it missed is
        logged when the run ends.
    progress : Progress, optional
    describe : str
        Of the training, for the progress.
    """
    callbacks: list[TrainerCallback] = [] if run is None else [_StepLog(run)]
    if progress is None:
        yield callbacks
        return
    with progress.count(describe) as show:
        yield [*callbacks, _StepDisplay(show)]


class _StepLog(TrainerCallback):
    """Logs every row of the history."""

    def __init__(self, run: Run) -> None:
        self.run, self.answers = run, True

    def on_history_row(self, row: dict[str, Any]) -> None:
        """Log a row; after the store has failed once, all rows wait for the end."""
        record_step(self.run, row)
        self.answers = self.answers and self.run.flush_or_wait()


class _StepDisplay(TrainerCallback):
    """Shows step and loss."""

    def __init__(self, show: Callable[[int, int, str], None]) -> None:
        self.show = show
        self.losses: dict[str, float] = {}

    def on_history_row(self, row: dict[str, Any]) -> None:
        """Remember the losses."""
        self.losses[row["split"]] = row["loss"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show how far the training is; the losses of the last step are known only when it ends."""
        if state.global_step < state.max_steps:
            self._show(state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the last step, which is an earlier one if the training stopped early."""
        self._show(state.global_step, state.global_step)

    def _show(self, done: int, total: int) -> None:
        self.show(done, total, ", ".join(f"{split} loss {loss:.3f}" for split, loss in self.losses.items()))
