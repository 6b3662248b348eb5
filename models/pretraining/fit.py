"""Pretrain a masked-patch model without labels: it learns to predict the hidden patches of strips.

    model = build_masked_model(grid, seed=1)
    result = fit_masked_model(model, strips, training_index, validation_index, sources)
    result.model.save("runs/pretrained")

White noise cannot be predicted, so no model has a smaller error on it than predicting 0. Losses are given as ``ratio``
to that error, over all strips and for each source (noise, stars, cosmic rays, …). At 1, nothing was learned.

The module has its own training loop, because checkpoints of the `Trainer` are pickles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup

from shutterless.models.dataset import mirror_columns, strips_to_tensors
from shutterless.models.pretraining.masked_patches import MaskedPatchModel
from shutterless.models.pretraining.masking import draw_hidden
from shutterless.models.pretraining.settings import PretrainingError, PretrainingSettings
from shutterless.models.scoring import choose_device
from shutterless.models.training.checkpoint import read_checkpoint, write_checkpoint
from shutterless.pipeline.settings import plain_values
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch

PRETRAINING_COLUMNS = ("step", "epoch", "seconds", "split", "source", "loss", "ratio", "n_pixels")
ALL = "all"


@dataclass(frozen=True)
class PretrainingResult:
    """Result of a pretraining.

    Parameters
    ----------
    model : MaskedPatchModel
        With the weights of the best epoch, in evaluation mode on the CPU.
    history : DataFrame
        `PRETRAINING_COLUMNS`: mean squared error of the hidden valid pixels (compressed σ²), its ratio to that of
        predicting 0, and their number. A training row is a mean over an epoch while weights change; its source is
        "all". Validation rows are means over all validation strips after the epoch, and over those of each source. The
        same patches are hidden every time.
    best_epoch : int
    stopped_early : bool
        Whether it stopped because the last epochs brought no gain.
    """

    model: MaskedPatchModel
    history: pd.DataFrame
    best_epoch: int
    stopped_early: bool


@dataclass
class _Progress:
    """State of a pretraining between two epochs: the values of a checkpoint besides tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_ratio: float = float("inf")
    since_gain: int = 0
    seconds: float = 0.0


def fit_masked_model(
    model: MaskedPatchModel,
    strips: StripBatch,
    training: np.ndarray,
    validation: np.ndarray,
    sources: np.ndarray,
    settings: PretrainingSettings | None = None,
    *,
    checkpoint: Path | None = None,
    made_from: str = "",
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> PretrainingResult:
    """Pretrain a model; on one machine, the same seeds give identical weights, interrupted or not.

    Parameters
    ----------
    model : MaskedPatchModel
        Trained in place. Its input scaling is fitted to the training strips first.
    strips : StripBatch
    training, validation : ndarray of int
        Indices of the strips to train on and to validate on.
    sources : ndarray of str, shape (b,)
        Source of each strip; the validation ratio is given for each source.
    settings : PretrainingSettings, optional
    checkpoint : Path, optional
        File (safetensors) that is written after every epoch; if it exists, the pretraining resumes from it.
    made_from : str
        Identifies the strips; a checkpoint made from others is refused.
    on_rows : callable
        Receives the new rows of the history after every epoch.
    """
    settings = settings or PretrainingSettings()
    if len(sources) != len(strips):
        raise PretrainingError(f"{len(sources)} sources for {len(strips)} strips; give one for each")
    for name, index in (("training", training), ("validation", validation)):
        if not len(index):
            raise PretrainingError(f"there is no {name} strip among {len(strips)}")
    run = _Run(model, strips, training, validation, sources, settings)
    recipe = {
        "settings": plain_values(settings, PretrainingSettings),
        "model": model.config.to_dict(),
        "made_from": made_from,
    }
    if checkpoint is not None and checkpoint.is_file():
        run.restore(*read_checkpoint(checkpoint, recipe))
    while not run.is_finished():
        with _own_random_state(settings.seed, run.at.epoch):
            rows = run.train_epoch()
        on_rows(rows)
        if checkpoint is not None:
            write_checkpoint(checkpoint, recipe, *run.state())
    return run.result()


class _Run:
    """One pretraining: the model, its optimiser, and the best weights so far."""

    def __init__(
        self,
        model: MaskedPatchModel,
        strips: StripBatch,
        training: np.ndarray,
        validation: np.ndarray,
        sources: np.ndarray,
        settings: PretrainingSettings,
    ) -> None:
        model.scaling.fit(strips[training])
        self.device = torch.device(choose_device(settings.device))
        self.model, self.settings = model.to(self.device), settings
        self.tensors = strips_to_tensors(strips)
        self.training = torch.from_numpy(np.asarray(training))
        self.validation = torch.from_numpy(np.asarray(validation))
        self.sources = np.asarray(sources, dtype=object)[validation]
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self.steps_per_epoch = -(-len(training) // settings.batch_size)
        self.at = _Progress()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    def is_finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` passes brought no gain."""
        return self.at.epoch >= self.settings.epochs or self.at.since_gain >= self.settings.patience

    def train_epoch(self) -> list[dict[str, Any]]:
        """Pass once over the training strips and validate; return the new rows of the history."""
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(_seed_of(self.settings.seed, self.at.epoch))
        order = self.training[torch.randperm(len(self.training), generator=generator)]
        self.model.train()
        sums = np.zeros(3)
        schedule = schedule_rate(self.optimiser, self.settings, self.steps_per_epoch, self.at.epoch)
        for index in order.split(self.settings.batch_size):
            sums += self._step(index, generator)
            schedule.step()
        self.at.epoch += 1
        errors = _validation_errors(self.model, self.tensors, self.validation, self.settings.seed)
        self.at.seconds += time.perf_counter() - started
        rows = [self._row("train", ALL, sums), *self._validation_rows(errors)]
        self._keep_if_best(rows[1]["ratio"])
        self.rows += rows
        return rows

    def _step(self, index: torch.Tensor, generator: torch.Generator) -> np.ndarray:
        batch = {name: values.index_select(0, index) for name, values in self.tensors.items()}
        hidden = draw_hidden(batch["mask"], self.model.config.token_masking, generator)
        if self.settings.flip_columns:
            mirror_columns(batch, self.model.grid, torch.rand(len(index), generator=generator) < 0.5)
        output = self.model(hidden.to(self.device), **{name: v.to(self.device) for name, v in batch.items()})
        self.optimiser.zero_grad(set_to_none=True)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimiser.step()
        error, zero = output.squared_errors()
        return np.array([error.sum().item(), zero.sum().item(), output.live.sum().item()])

    def _validation_rows(self, errors: np.ndarray) -> list[dict[str, Any]]:
        rows = [self._row("validation", ALL, errors.sum(0))]
        for source in sorted(set(self.sources)):
            rows.append(self._row("validation", source, errors[self.sources == source].sum(0)))
        return rows

    def _row(self, split: str, source: str, sums: np.ndarray) -> dict[str, Any]:
        error, zero, n_pixels = sums
        loss, ratio = error / max(n_pixels, 1), error / zero if zero else float("nan")
        step = self.at.epoch * self.steps_per_epoch
        values = (step, self.at.epoch, self.at.seconds, split, source, loss, ratio, int(n_pixels))
        return dict(zip(PRETRAINING_COLUMNS, values, strict=True))

    def _keep_if_best(self, ratio: float) -> None:
        gained = ratio < self.at.best_ratio - self.settings.least_gain
        self.at.since_gain = 0 if gained else self.at.since_gain + 1
        if ratio < self.at.best_ratio:
            self.at.best_ratio, self.at.best_epoch = ratio, self.at.epoch
            self.best = {name: w.detach().clone() for name, w in self.model.state_dict().items()}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values from which `restore` resumes."""
        tensors = {f"model.{name}": values for name, values in self.model.state_dict().items()}
        tensors |= {f"best.{name}": values for name, values in self.best.items()}
        for i, entries in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": values for name, values in entries.items()}
        return tensors, {"at": asdict(self.at), "rows": self.rows}

    def restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Resume from a result of `state`."""
        self.model.load_state_dict(_under("model.", tensors))
        self.best = {name: v.to(self.device) for name, v in _under("best.", tensors).items()}
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, entry in _under("optimiser.", tensors).items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = entry
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.at, self.rows = _Progress(**values["at"]), values["rows"]

    def result(self) -> PretrainingResult:
        """Put the weights of the best epoch back."""
        if not self.best:
            raise PretrainingError(
                "the validation loss was never finite: lower pretrain.learning_rate, or look for non-finite inputs"
            )
        self.model.load_state_dict(self.best)
        training = {"best_epoch": self.at.best_epoch, "best_ratio": self.at.best_ratio, "epochs_done": self.at.epoch}
        self.model.config.training = {
            **plain_values(self.settings, PretrainingSettings),
            **training,
            "n_strips": len(self.training),
        }
        history = pd.DataFrame(self.rows, columns=list(PRETRAINING_COLUMNS))
        stopped = self.at.epoch < self.settings.epochs
        return PretrainingResult(self.model.cpu().eval(), history, self.at.best_epoch, stopped)


@torch.inference_mode()
def _validation_errors(
    model: MaskedPatchModel, tensors: dict[str, torch.Tensor], index: torch.Tensor, seed: int
) -> np.ndarray:
    """Squared error of each strip, that of predicting 0, and the number of hidden valid pixels, shape (b, 3).

    The same seed hides the same patches.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for chosen in index.split(STRIPS_AT_ONCE):
        batch = {name: values.index_select(0, chosen) for name, values in tensors.items()}
        hidden = draw_hidden(batch["mask"], model.config.token_masking, generator).to(model.device)
        output = model(hidden, **{name: v.to(model.device) for name, v in batch.items()})
        error, zero = output.squared_errors()
        parts.append(torch.stack([error.sum(1), zero.sum(1), output.live.sum((1, 2))], 1).double().cpu().numpy())
    model.train(was_training)
    return np.concatenate(parts)


def schedule_rate(
    optimiser: torch.optim.Optimizer, settings: PretrainingSettings, steps_per_epoch: int, epoch: int = 0
) -> LRScheduler:
    """Set the rate of the first step of an epoch; it rises linearly, then falls along a cosine to 0 after the last.

    The library's schedule has rate 0 at step 0, so steps count from 1 here.
    """
    n_steps = settings.epochs * steps_per_epoch
    for group in optimiser.param_groups:
        group["initial_lr"] = settings.learning_rate
    n_warmup: Any = settings.warmup_fraction * n_steps  # the library also takes fractions of a step
    return get_cosine_schedule_with_warmup(optimiser, n_warmup + 1, n_steps + 1, last_epoch=epoch * steps_per_epoch)


def _seed_of(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


@contextmanager
def _own_random_state(seed: int, epoch: int) -> Iterator[None]:
    """Seed torch's global generator, from which dropout draws, for an epoch, and restore it afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(_seed_of(seed, epoch))
        yield


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
