"""Train the box detector on boxes that people drew, and judge it on fields that it did not learn from."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.boxes.detector import BoxDetector
from shutterless.models.boxes.find import find_boxes
from shutterless.models.boxes.fit import copy_detector, fit_boxes, fit_by_fields
from shutterless.models.boxes.judge import JudgedBoxes, judge_boxes
from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.models.boxes.tiles import TileSet, join_tiles, tiles_of_image
from shutterless.models.describe import count_parameters
from shutterless.pipeline.files import write_parquet, write_text
from shutterless.pipeline.oriented_boxes import GEOMETRY_COLUMNS, scale_boxes
from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.pipeline.reading.sky_images import SkyImage, read_sky_image, scale_image
from shutterless.pipeline.settings import plain_values
from shutterless.workflows.boxes.labels import BoxLabelError, LabelledImage, read_labels
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.pages.drawings import new_figure
from shutterless.workflows.tracking.record import MODEL_HASH, TRAINING, hash_weights
from shutterless.workflows.tracking.tracking import (
    Run,
    Tracking,
    TrackingError,
    bundled_folder,
    resolve_model,
    track_run,
)

BOX_EXPERIMENT = "boxes"
FOUND_HELD_OUT, CURVES, CURVES_FIGURE = "held_out.parquet", "curves.parquet", "curves.png"
RECALL = 0.7  # at which the precision is given, as Li et al. 2022 (AJ 164, 250) do
_GEOMETRY = list(GEOMETRY_COLUMNS)


def box_model_folder(reference: str) -> Path:
    """Folder of a box detector: a folder, ``models:/NAME@ALIAS``, a run id, or ``bundled``, the one that ships.

    Raises
    ------
    TrackingError
        If nothing is found there, or it is the template bank.
    """
    if reference == "bundled":
        return bundled_folder() / "boxes"
    folder = resolve_model(reference)
    if folder is None:
        raise TrackingError(f"{reference} finds events in frames and no boxes; name a box detector, or bundled")
    return folder


@dataclass(frozen=True)
class BoxTraining:
    """Result of a training.

    Parameters
    ----------
    judged : mapping of str to JudgedBoxes
        Boxes of each kind found in fields that were held out.
    failures : list of str
        Images that could not be read, with the reason.
    facts : mapping
        The content of ``training.json``.
    """

    judged: dict[str, JudgedBoxes]
    failures: list[str]
    facts: dict[str, Any]


def train_boxes(
    labels: Path,
    *,
    out: Path,
    init: Path,
    settings: BoxTrainingSettings | None = None,
    tracking: Tracking | None = None,
    progress: Progress | None = None,
) -> BoxTraining:
    """Train a detector on labels: the command ``shutterless boxes train``.

    Parameters
    ----------
    labels : Path
        A COCO file, or a folder of images with region files; see `shutterless.workflows.boxes.labels.read_labels`.
    out : Path
        For the model, boxes found in held-out fields, precision and recall, and `TRAINING`.
    init : Path
        Model from which the training starts.
    settings : BoxTrainingSettings, optional
    tracking : Tracking, optional
        Log there in the experiment `BOX_EXPERIMENT`.
    progress : Progress, optional

    Raises
    ------
    BoxLabelError, TileError
        If there is nothing to learn from, or only one field.
    """
    settings, progress = settings or BoxTrainingSettings(), progress or Progress(quiet=True)
    started = time.perf_counter()
    first = load_boxes(init)
    images, scale, failures = read_images(read_labels(labels))
    tiles = join_tiles([one.cut(first.config.tile_px) for one in images])
    truth = pd.concat([one.boxes.assign(tile=number) for number, one in enumerate(images)], ignore_index=True)
    kinds = sorted(set(truth["kind"]))
    fields = sorted({one.field for one in images})
    progress.write_line(f"{len(truth)} boxes of {len(kinds)} kinds in {len(images)} images of {len(fields)} fields")
    # kinds that it knew stay: a ghost that nobody boxed is then no echo
    start = partial(copy_detector, first, [*kinds, *(kind for kind in first.config.kinds if kind not in kinds)])
    found = _find_held_out(images, fit_by_fields(start, tiles, settings))
    judged = {kind: judge_boxes(found, truth, kind) for kind in kinds}
    model = start()
    losses = fit_boxes(model, tiles, settings)
    model.config.pixel_scale_arcsec = scale
    facts = {
        "labels": str(labels),
        "init": str(init),
        "n_boxes": {str(kind): int(n) for kind, n in truth["kind"].value_counts().sort_index().items()},
        "n_images": len(images),
        "fields": fields,
        "pixel_scale_arcsec": scale,
        "precision_at_70_percent": {kind: one.precision_at(RECALL) for kind, one in judged.items()},
        "threshold_at_70_percent": {kind: one.threshold_at(RECALL) for kind, one in judged.items()},
        "settings": plain_values(settings),
        "train_seconds": round(time.perf_counter() - started, 1),
    }
    _write(out, model, found, judged, facts)
    if tracking is not None:
        with track_run(tracking, BOX_EXPERIMENT, out.name) as run:
            _record(run, model, losses, judged, facts)
            run.log_tags({MODEL_HASH: hash_weights(out)})
            run.log_model(out)
    return BoxTraining(judged, failures, facts)


@dataclass(frozen=True, eq=False)
class ScaledImage:
    """A labelled image at the pixel scale of the training.

    Parameters
    ----------
    pixels : ndarray of float32, shape (y, x)
    boxes : DataFrame
        In these pixels.
    field : str
    """

    pixels: np.ndarray
    boxes: pd.DataFrame
    field: str

    def cut(self, tile_px: int) -> TileSet:
        """Its tiles, each with the parts of the boxes that it holds."""
        return tiles_of_image(self.pixels, self.boxes, self.field, tile_px)


def read_images(labelled: Sequence[LabelledImage]) -> tuple[list[ScaledImage], float | None, list[str]]:
    """All images at one pixel scale, that scale (arcsec), and the images that could not be used, with the reason.

    Raises
    ------
    BoxLabelError
        If none can be used.
    """
    images: list[tuple[LabelledImage, SkyImage]] = []
    failures = []
    for one in labelled:
        try:
            images.append((one, read_sky_image(one.path)))
        except FrameError as error:
            failures.append(str(error))
    scales = [image.pixel_scale_arcsec for _, image in images if image.pixel_scale_arcsec is not None]
    scale = float(np.median(scales)) if scales else None
    scaled = []
    for one, image in images:
        try:
            scaled.append(_scale(one, image, scale))
        except FrameError as error:
            failures.append(str(error))
    if not scaled:
        why = failures[0] if failures else "there is none"
        raise BoxLabelError(f"none of {len(labelled)} labelled images can be used: {why}")
    return scaled, scale, failures


def _scale(labelled: LabelledImage, image: SkyImage, scale: float | None) -> ScaledImage:
    pixels, factor = scale_image(image, scale)
    boxes = labelled.boxes.copy()
    boxes[_GEOMETRY] = scale_boxes(boxes[_GEOMETRY].to_numpy(dtype=np.float64), factor)
    return ScaledImage(pixels, boxes, labelled.field or image.field)


def _find_held_out(images: Sequence[ScaledImage], models: Iterable[tuple[str, BoxDetector]]) -> pd.DataFrame:
    """Boxes that each field's own detector finds in its images; ``tile`` is the number of the image."""
    found = [
        find_boxes(model, image.pixels).assign(tile=number)
        for field, model in models
        for number, image in enumerate(images)
        if image.field == field
    ]
    return pd.concat(found, ignore_index=True)


def _write(
    out: Path, model: BoxDetector, found: pd.DataFrame, judged: dict[str, JudgedBoxes], facts: dict[str, Any]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    write_parquet(found, out / FOUND_HELD_OUT)
    write_parquet(curves_table(judged), out / CURVES)
    plot_curves(judged).savefig(out / CURVES_FIGURE, dpi=110)
    write_text(out / TRAINING, json.dumps(facts, indent=1))


def curves_table(judged: dict[str, JudgedBoxes]) -> pd.DataFrame:
    """Columns ``kind``, ``score``, ``precision`` and ``recall`` of every found box."""
    tables = [
        pd.DataFrame({"score": one.score, "precision": one.precision, "recall": one.recall}).assign(kind=kind)
        for kind, one in judged.items()
    ]
    return pd.concat(tables, ignore_index=True)[["kind", "score", "precision", "recall"]]


def plot_curves(judged: dict[str, JudgedBoxes]) -> Any:
    """Figure of precision over recall, a line for each kind."""
    figure = new_figure(5, 4)
    ax = figure.add_subplot()
    for kind, one in judged.items():
        ax.plot(one.recall, one.precision, label=f"{kind} ({one.n_true})")
    ax.axvline(RECALL, color="0.7", linewidth=0.8)
    ax.set(xlabel="recall, fields held out", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(frameon=False)
    return figure


def _record(
    run: Run, model: BoxDetector, losses: pd.DataFrame, judged: dict[str, JudgedBoxes], facts: dict[str, Any]
) -> None:
    run.log_params({"family": "boxes", "n_parameters": count_parameters(model)}, prefix="arch.")
    run.log_params(facts["settings"], prefix="train.")
    for row in losses.itertuples(index=False):
        run.log_metrics({"train.loss": row.loss}, int(row.epoch))
    run.log_metrics({f"held_out.precision_70.{kind}": one.precision_at(RECALL) for kind, one in judged.items()})
    run.log_table(curves_table(judged), "curves")
    run.log_figure(plot_curves(judged), CURVES_FIGURE)
