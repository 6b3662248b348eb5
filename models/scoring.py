"""Score strips into a table; the same code for every detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.evaluation.platt import fit_platt, probability_from_logit
from shutterless.models.inputs import DetectorModel
from shutterless.models.outputs import DetectorOutput
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch, TokenGrid, check_same_grid

SCORE_COLUMNS = ("event_logit", "probability", "kind", "kind_probability", "onset", "log2_duration")


def score_strips(
    model: DetectorModel,
    strips: StripBatch,
    batch_size: int = STRIPS_AT_ONCE,
    *,
    numbers: np.ndarray | None = None,
    device: str = "auto",
    grid: TokenGrid | None = None,
    threads: int | None = 1,
) -> pd.DataFrame:
    """Score strips, in their order.

    Parameters
    ----------
    model : DetectorModel
    strips : StripBatch
    batch_size : int
        Strips in one forward pass. Batches are always cut from the start, so the same strips give the same scores to
        the bit; another batch size may change the last digits.
    numbers : ndarray, shape (b, c), optional
        Context of the triggers, for a model that sees it (`shutterless.pipeline.context.features.CONTEXT_FEATURES`).
    device : str
        "auto" (a GPU if there is one) or a torch device such as "cpu". The model is moved there and back.
    grid : TokenGrid, optional
        Grid the strips were cut with, to be compared with the model's; without it only the shapes are compared.
    threads : int or None
        CPU threads of one forward pass. Their number changes the last digits of sums, so the default is one, whatever
        the number of workers; None leaves torch's setting.

    Returns
    -------
    DataFrame
        ``event_logit`` (uncalibrated), ``probability`` (calibrated), ``kind`` (most probable class),
        ``kind_probability``, ``onset`` (fraction of the strip), ``log2_duration`` (rows); empty for no strips.
    """
    model.check_features()
    model.check_numbers(numbers)
    if grid is not None:
        check_same_grid(grid, model.grid, "the batch of strips")
    home, target = model.device, torch.device(choose_device(device))
    with _ready_to_score(model, target, threads):
        parts = [slice(i, i + batch_size) for i in range(0, len(strips), batch_size)]
        batches = [_forward(model, strips[at], None if numbers is None else numbers[at], target) for at in parts]
    model.to(home)  # type: ignore[arg-type]
    return _score_table(model, batches)


def calibrate_model(model: DetectorModel, event_logit: np.ndarray, is_event: np.ndarray) -> None:
    """Fit Platt scaling to a model's logits of validation strips, and store it in the model's config.

    Parameters
    ----------
    model : DetectorModel
        Changed in place.
    event_logit, is_event : ndarray, shape (b,)
        Of strips that the model was not trained on, and the truth.
    """
    model.config.calibration_slope, model.config.calibration_intercept = fit_platt(event_logit, is_event)


def choose_device(device: str) -> str:
    """Resolve "auto" to the GPU if there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def evaluation_mode(model: DetectorModel, threads: int | None = 1) -> Iterator[None]:
    """Evaluation mode with a fixed number of threads (None: torch's setting); both are restored afterwards.

    Dropout would make scores random, and the number of threads changes the last digits of sums.
    """
    was_training, n_threads = model.training, torch.get_num_threads()
    model.eval()
    torch.set_num_threads(threads or n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
        model.train(was_training)


@contextmanager
def _ready_to_score(model: DetectorModel, device: torch.device, threads: int | None) -> Iterator[None]:
    """`evaluation_mode` on a device, without gradients."""
    model.to(device)  # type: ignore[arg-type]
    with evaluation_mode(model, threads), torch.inference_mode():
        yield


def _forward(
    model: DetectorModel, strips: StripBatch, numbers: np.ndarray | None, device: torch.device
) -> DetectorOutput:
    return model(**{name: values.to(device) for name, values in strips_to_tensors(strips, numbers).items()})


def _score_table(model: DetectorModel, batches: list[DetectorOutput]) -> pd.DataFrame:
    """Join the outputs of all batches into one table."""
    kinds, config = np.asarray(model.config.kinds, dtype=object), model.config
    activate = model.head.readings["kind"].activate
    logit = _joined(batches, "event_logit", ())
    kind_probability = _joined([{"k": activate(b["kind_logits"])} for b in batches], "k", (len(kinds),))
    columns = {
        "event_logit": logit,
        "probability": probability_from_logit(logit, config.calibration_slope, config.calibration_intercept),
        "kind": pd.Series(kinds[kind_probability.argmax(1)], dtype="str"),
        "kind_probability": kind_probability.max(1),
        "onset": _joined(batches, "onset", ()),
        "log2_duration": _joined(batches, "log2_duration", ()),
    }
    return pd.DataFrame(columns, columns=list(SCORE_COLUMNS))


def _joined(batches: list, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Join one output of all batches as float64 (more digits than float32 has, so nothing is lost in tables)."""
    parts = [batch[name].double().cpu().numpy() for batch in batches]
    return np.concatenate([np.empty((0, *shape)), *parts])
