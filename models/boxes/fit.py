"""Train a box detector with the `transformers` Trainer, from scratch or from other weights, and judge it by fields.

model = build_box_detector(seed=1)
fit_boxes(model, tiles, BoxTrainingSettings(epochs=20))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from shutterless.models.boxes.configuration import BoxDetectorConfig
from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import find_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.tiles import TileDataset, TileError, TileSet
from shutterless.models.boxes.views import bin_pixels
from shutterless.models.training.fit import own_random_state, quiet_arguments
from shutterless.pipeline.settings import plain_values

_HARDNESS_EVERY = 10  # passes after which tiles without a box are scored anew
_TILES_AT_ONCE = 16


def build_box_detector(seed: int = 1, **sizes: Any) -> BoxDetector:
    """Build a detector with drawn weights; ``sizes`` are those of `BoxDetectorConfig`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BoxDetector(BoxDetectorConfig(**sizes)).eval()


def copy_detector(model: BoxDetector, kinds: Sequence[str] | None = None) -> BoxDetector:
    """Copy of a detector to train further, for other kinds if they are given; those of the same name keep theirs."""
    own = list(model.config.kinds or ())
    kinds = list(kinds or own)
    config = BoxDetectorConfig.from_dict({**model.config.to_dict(), "kinds": kinds, "training": None})
    weights = model.state_dict()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        copy = BoxDetector(config).eval()
        for name, values in copy.kind.named_parameters():
            rows = [weights[f"kind.{name}"][own.index(k)] if k in own else values[n] for n, k in enumerate(kinds)]
            weights[f"kind.{name}"] = torch.stack([row.detach() for row in rows])
    copy.load_state_dict(weights)
    return copy


def fit_boxes(
    model: BoxDetector,
    tiles: TileSet,
    settings: BoxTrainingSettings | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> pd.DataFrame:
    """Train a detector in place; on one machine, the same seeds give the same weights.

    Parameters
    ----------
    model : BoxDetector
        In evaluation mode afterwards.
    tiles : TileSet
    settings : BoxTrainingSettings, optional
    callbacks : sequence of TrainerCallback

    Returns
    -------
    DataFrame
        ``epoch`` and ``loss``, the mean over the pass.
    """
    settings = settings or BoxTrainingSettings()
    dataset = TileDataset(
        tiles, list(model.config.kinds or ()), empty_share=settings.empty_share, turn=settings.turn, seed=settings.seed
    )
    record = _LossRecord()
    with tempfile.TemporaryDirectory() as folder, own_random_state():
        trainer = Trainer(
            model=model,
            args=quiet_arguments(
                settings,
                folder,
                logging_strategy="epoch",
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
            ),
            train_dataset=dataset,
            callbacks=[_HardTiles(model, dataset), record, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.config.training = {**plain_values(settings, BoxTrainingSettings), "n_boxes": len(tiles.boxes)}
    model.cpu().eval()
    return pd.DataFrame(record.rows, columns=["epoch", "loss"])


class _LossRecord(TrainerCallback):
    """Collect the mean loss of each pass."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.rows.append((float(state.epoch), float(logs["loss"])))


class _HardTiles(TrainerCallback):
    """Choose the tiles without a box of each pass by what the model finds in them."""

    def __init__(self, model: BoxDetector, dataset: TileDataset) -> None:
        self.model, self.dataset = model, dataset
        self.hardness = np.zeros(len(dataset.empty))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = round(state.epoch or 0)
        if epoch and epoch % _HARDNESS_EVERY == 0 and self.dataset.n_empty:
            self.hardness = highest_scores(self.model, self.dataset.tiles.pixels[self.dataset.empty])
        self.dataset.choose_empty(self.hardness)


@torch.inference_mode()
def highest_scores(model: BoxDetector, pixels: np.ndarray) -> np.ndarray:
    """Largest log-odds of an object in each tile, float64 of shape (n,)."""
    was_training = model.training
    model.eval()
    parts = [
        model(torch.from_numpy(np.stack([bin_pixels(one) for one in pixels[k : k + _TILES_AT_ONCE]])).to(model.device))
        .object_logits.amax(1)
        .cpu()
        .numpy()
        for k in range(0, len(pixels), _TILES_AT_ONCE)
    ]
    model.train(was_training)
    return np.concatenate(parts).astype(np.float64)


def find_in_tiles(model: BoxDetector, tiles: TileSet) -> pd.DataFrame:
    """Boxes found in each tile, with its number as ``tile``."""
    found = [find_boxes(model, tiles.pixels[k]).assign(tile=k) for k in range(len(tiles))]
    return pd.concat(found, ignore_index=True)


def fit_by_fields(
    start: Callable[[], BoxDetector], tiles: TileSet, settings: BoxTrainingSettings
) -> Iterator[tuple[str, BoxDetector]]:
    """Train a detector for each field on all other fields.

    Parameters
    ----------
    start : callable
        Returns the detector with which each training begins.
    tiles : TileSet
    settings : BoxTrainingSettings

    Yields
    ------
    field : str
    model : BoxDetector
        That never saw it.

    Raises
    ------
    TileError
        If all boxes are of one field.
    """
    boxed = np.unique(tiles.fields[tiles.boxes["tile"].to_numpy(dtype=int)])
    if len(boxed) < 2:
        raise TileError(
            f"all boxes are in the field {boxed.tolist()}; to hold out a field, box objects of at least two"
        )
    for field in np.unique(tiles.fields):
        model = start()
        fit_boxes(model, tiles.take(np.flatnonzero(tiles.fields != field)), settings)
        yield str(field), model
