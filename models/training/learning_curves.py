"""Diagnose a training from its learning curve, with the numbers that support the diagnosis.

    diagnosis = diagnose(pd.read_parquet("runs/cnn/history.parquet"), dropout=0.05)
    diagnosis.title, diagnosis.evidence

The learning rate of `shutterless.models.training.fit` falls along a cosine to 0, so every curve ends flat: *converged*
means that this training gains no more, but a longer one may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.ndimage import median_filter

from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA

STILL_LEARNING = "still learning"
CONVERGED = "converged"
OVER_FITTING = "over-fitting"
UNSTABLE = "unstable"
RATE_TOO_HIGH = "learning rate too high"
RATE_TOO_LOW = "learning rate too low"
BELOW_BY_DROPOUT = "validation below training because of dropout"
EASIER_VALIDATION = "validation easier than training"
LATE_GENERALISATION = "late generalisation"
TOO_SHORT = "too short to judge"

# The fractions below were tuned on synthetic curves, the six histories of the quickstart and two of image stacks
_RELEVANT = 0.02  # of a loss: smaller changes are not reported
_OF_THE_FALL = 0.01  # of the fall of the loss: smaller changes are not reported either
_SIGMAS = 3.0
_PEAK, _ABOVE, _LONG = 1.5, 1.2, 0.2  # of the first loss; of the rows
_JUMP, _JUMP_SIGMAS, _SCATTER = 0.1, 6.0, 0.15
_SMALL_FALL, _LINEAR = 0.15, 0.25
_LATE = 2.5  # ratio of the steps at which validation and training learn


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of a learning curve.

    Parameters
    ----------
    name : str
        One of the names above.
    evidence : str
        Reason, in words and numbers.
    step : int or None
        Optimiser step at which the problem begins, if it has a beginning.
    """

    name: str
    evidence: str
    step: int | None = None

    @property
    def title(self) -> str:
        """The name, and the step at which it begins."""
        return self.name if self.step is None else f"{self.name} from step {self.step}"


@dataclass(frozen=True)
class _Curve:
    """Loss against step, both of shape (n,), finite, in the order of the steps."""

    step: np.ndarray
    loss: np.ndarray

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def noise(self) -> float:
        """Scatter of single rows about a smooth curve: the median second difference, which a slope does not change."""
        return _scatter(self.loss)

    @cached_property
    def start(self) -> float:
        return float(np.mean(self.loss[: max(len(self) // 20, 1)]))

    @cached_property
    def end(self) -> float:
        return float(np.mean(self.loss[-max(len(self) // 10, 1) :]))

    @cached_property
    def fall(self) -> float:
        return max(self.start - float(np.min(self.loss)), 0.0)

    @cached_property
    def smooth(self) -> np.ndarray:
        """Running median of three, or the loss itself if there are fewer than seven rows."""
        if len(self) < 7:
            return self.loss
        return median_filter(self.loss, 3, mode="nearest")

    def at(self, step: float) -> float:
        return float(np.interp(step, self.step, self.smooth))


def diagnose(history: pd.DataFrame, *, dropout: float | None = None) -> Diagnosis:
    """Diagnose a learning curve.

    Parameters
    ----------
    history : DataFrame
        ``step``, ``split`` ("train" or "validation") and ``loss``, as of `shutterless.models.training.fit`:
        losses are not negative, and a training row is a mean over the batches since the last one.
    dropout : float, optional
        Of the model. If it is 0, it cannot explain a validation loss below the training loss.

    Returns
    -------
    Diagnosis
        The first of these that holds: not finite or far above its initial value (rate too high), unstable, late
        generalisation, over-fitting, rate too low, still learning, validation below training, converged.

    Notes
    -----
    Late generalisation: Power et al. (2022, arXiv:2201.02177). Training rows lie above validation because their batches
    have dropout (Srivastava et al. 2014, JMLR 15, 1929), are mirrored, and use older weights than the validation.
    """
    rows = history.sort_values("step", kind="stable")
    if (lost := rows[~np.isfinite(rows["loss"].to_numpy(float))]).size:
        first = int(lost["step"].iloc[0])
        return Diagnosis(RATE_TOO_HIGH, f"the {lost['split'].iloc[0]} loss is not finite at step {first}", first)
    train, validation = (_curve(rows, split) for split in ("train", "validation"))
    if len(train) < 3 and len(validation) < 3:
        return Diagnosis(TOO_SHORT, f"{len(train)} training and {len(validation)} validation rows; three are needed")
    readings: tuple[Callable[[_Curve, _Curve], Diagnosis | None], ...]
    readings = (_rose, _jumped, _learned_late, _over_fitted, _hardly_fell, _still_falls)
    found = next((diagnosis for reading in readings if (diagnosis := reading(train, validation))), None) or _settled(
        train, validation
    )
    below = _below_training(train, validation, dropout)
    if below is None or found.name not in (STILL_LEARNING, CONVERGED):
        return found
    if found.name == CONVERGED:
        return Diagnosis(below.name, f"{below.evidence}; otherwise converged: {found.evidence}")
    return Diagnosis(found.name, f"{found.evidence}; {below.evidence}", found.step)


def _curve(rows: pd.DataFrame, split: str) -> _Curve:
    part = rows[rows["split"] == split]
    return _Curve(part["step"].to_numpy(float), part["loss"].to_numpy(float))


def _scatter(values: np.ndarray) -> float:
    if len(values) < 5:
        return 0.0
    second = np.abs(np.diff(values, 2))
    return float(MAD_TO_SIGMA * np.median(second) / np.sqrt(6))


def _rose(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """The loss is far above its initial value for a large part of the training, or at its end."""
    curve, name = (train, "training") if len(train) >= 3 else (validation, "validation")
    peak, first = float(np.max(curve.loss)), float(curve.loss[0])
    share = float(np.mean(curve.loss > _ABOVE * first))
    if peak < _PEAK * first or (share < _LONG and curve.end < first):
        return None
    where = int(curve.step[np.argmax(curve.loss)])
    return Diagnosis(
        RATE_TOO_HIGH,
        f"the {name} loss rose from {first:.3g} to {peak:.3g} at step {where}, was above its beginning in "
        f"{100 * share:.0f} % of the rows and ended at {curve.end:.3g}",
    )


def _jumped(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """The loss jumps, or scatters more than the sampling of batches explains."""
    jumps = [(curve, name, _find_jumps(curve)) for curve, name in ((train, "training"), (validation, "validation"))]
    for curve, name, (places, heights) in jumps:
        if len(places) >= 2 or (name == "training" and len(places) and heights.max() > 0.5 * curve.fall):
            return Diagnosis(
                UNSTABLE,
                f"the {name} loss jumped {len(places)} times, by up to {heights.max():.3g} at step "
                f"{int(curve.step[places[np.argmax(heights)]])}, where single rows scatter by {curve.noise:.2g}",
                int(curve.step[places[0]]),
            )
    late = train.loss[len(train) // 2 :]
    level = max(float(np.median(late)), 0.1 * train.start) if len(late) else 1.0
    scatter = float(np.sqrt(np.mean(np.diff(late, 2) ** 2) / 6)) if len(late) >= 5 else 0.0
    if scatter <= _SCATTER * level:
        return None
    return Diagnosis(
        UNSTABLE,
        f"in its second half the training loss scatters by {scatter:.2g} about {np.median(late):.3g} from row to row",
    )


def _find_jumps(curve: _Curve) -> tuple[np.ndarray, np.ndarray]:
    """Positions and heights of jumps: rows far above the three before them, after which the loss falls back."""
    if len(curve) < 4:
        return np.array([], int), np.array([])
    before = np.array([np.median(curve.loss[max(i - 3, 0) : i]) for i in range(1, len(curve))])
    height = curve.loss[1:] - before
    least = np.minimum.accumulate(curve.loss[::-1])[::-1][1:]  # of this row and all later ones
    returned = least < before + 0.5 * height
    limit = max(_JUMP_SIGMAS * curve.noise, _JUMP * curve.fall, _JUMP * float(np.min(curve.loss, initial=np.inf)))
    places = np.flatnonzero((height > limit) & returned)
    places = places[np.diff(places, prepend=-2) > 1]  # the first row of each jump
    return places + 1, height[places]


def _learned_late(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """Validation falls long after the training loss has."""
    if len(train) < 5 or len(validation) < 6:
        return None
    done = float(train.step[np.argmax(train.smooth <= train.end + 0.1 * (train.start - train.end))])
    then, last = validation.at(done), validation.end
    half = (validation.step > done) & (validation.smooth < 0.5 * (then + last))
    gain = then - last
    if not half.any() or gain < max(0.3 * then, _JUMP_SIGMAS * validation.noise) or train.at(done) > 0.5 * then:
        return None
    learned = float(validation.step[np.argmax(half)])
    if learned < _LATE * done:
        return None
    between = validation.smooth[(validation.step >= done) & (validation.step < learned)]
    worst = float(np.max(between, initial=then))
    return Diagnosis(
        LATE_GENERALISATION,
        f"training was done at step {done:.0f} (loss {train.at(done):.3g}) with validation at {then:.3g}, which went "
        f"up to {worst:.3g} and fell only at step {learned:.0f}, to {last:.3g}: stopped early, this would have been "
        "taken for over-fitting",
        int(learned),
    )


def _over_fitted(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """Validation has risen since its minimum, and training has not."""
    if len(validation) < 3:
        return None
    lowest = int(np.argmin(validation.smooth))
    best, step = float(validation.smooth[lowest]), validation.step[lowest]
    after = validation.smooth[lowest + 1 :]
    if not len(after):
        return None
    rise = float(np.mean(after[-2:])) - best
    if rise < max(_SIGMAS * validation.noise, _RELEVANT * best) or _went_up(train, step):
        return None
    fell = f"while training fell from {train.at(step):.3g} to {train.end:.3g}" if len(train) else "to the end"
    return Diagnosis(
        OVER_FITTING,
        f"validation was lowest at step {step:.0f} ({best:.3g}) and rose by {100 * rise / best:.0f} % {fell}; the "
        "weights of the lowest are the ones that were kept",
        int(step),
    )


def _went_up(train: _Curve, step: float) -> bool:
    return len(train) > 0 and train.end > train.at(step) + max(_SIGMAS * train.noise, _RELEVANT * train.end)


def _hardly_fell(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """The loss falls little, but steadily from the first to the last quarter: small steps and no plateau."""
    curve = train if len(train) >= 8 else validation
    if len(curve) < 8:
        return None
    quarters = [part.mean() for part in np.array_split(curve.loss, 4)]
    error = curve.noise / np.sqrt(len(curve) / 4)
    total, rest = quarters[0] - quarters[3], quarters[1] - quarters[3]
    if curve.end < (1 - _SMALL_FALL) * curve.start or total < _SIGMAS * error or rest < _SIGMAS * error:
        return None
    if rest < _LINEAR * total:
        return None
    return Diagnosis(
        RATE_TOO_LOW,
        f"the loss fell by {100 * (1 - curve.end / curve.start):.1f} % only, from {curve.start:.3g} to "
        f"{curve.end:.3g}, and all the way: {100 * rest / total:.0f} % of it after the first quarter",
    )


def _still_falls(train: _Curve, validation: _Curve) -> Diagnosis | None:
    """The loss still falls at the end, relevantly and significantly."""
    curve, name = _judged(train, validation)
    fell, error, since = _last_fall(curve)
    if fell < max(_SIGMAS * error, _RELEVANT * curve.loss[-1], _OF_THE_FALL * _learned(train, validation)):
        return None
    return Diagnosis(
        STILL_LEARNING,
        f"{name} fell by {100 * fell / (curve.loss[-1] + fell):.0f} % since step {since:.0f}, to {curve.loss[-1]:.3g}: "
        "train longer",
    )


def _judged(train: _Curve, validation: _Curve) -> tuple[_Curve, str]:
    return (validation, "validation") if len(validation) >= 3 else (train, "training")


def _learned(train: _Curve, validation: _Curve) -> float:
    """Total fall of the loss: the larger of training and validation, since training rows begin earlier."""
    return max((curve.fall for curve in (train, validation) if len(curve)), default=0.0)


def _last_fall(curve: _Curve) -> tuple[float, float, float]:
    """Fall of a curve over its last two fifths (or four rows), its error, and the first step of that part."""
    tail = curve.step >= 0.6 * curve.step[-1]
    if tail.sum() < 4:
        tail = np.arange(len(curve)) >= len(curve) - (4 if len(curve) > 4 else 2)
    step, loss = curve.step[tail], curve.loss[tail]
    if len(step) < 4:
        return float(loss[0] - loss[-1]), curve.noise * np.sqrt(2), float(step[0])
    slope, span = float(np.polyfit(step, loss, 1)[0]), step[-1] - step[0]
    error = curve.noise * span / float(np.sqrt(np.sum((step - step.mean()) ** 2)))
    return -slope * span, error, float(step[0])


def _below_training(train: _Curve, validation: _Curve, dropout: float | None) -> Diagnosis | None:
    """Validation is below training in all of the second half, compared at the middle of each training row's batches."""
    if len(train) < 3 or len(validation) < 2:
        return None
    centred = _Curve(train.step - np.median(np.diff(train.step, prepend=0)) / 2, train.loss)
    late = validation.step > 0.5 * validation.step[-1]
    gap = np.array([centred.at(step) for step in validation.step[late]]) - validation.loss[late]
    if late.sum() < 2 or np.any(gap < max(_RELEVANT * train.end, train.noise)):
        return None
    gap_text = (
        f"validation is below training in {late.sum()} of the last {late.sum()} epochs, at the end by "
        f"{gap[-1]:.2g} ({100 * gap[-1] / train.end:.0f} %)"
    )
    if dropout == 0:
        return Diagnosis(
            EASIER_VALIDATION, f"{gap_text}, without dropout: its strips are easier, or they leaked into training"
        )
    with_dropout = "dropout" if dropout is None else f"dropout of {dropout:g}"
    return Diagnosis(
        BELOW_BY_DROPOUT,
        f"{gap_text}: training rows are measured with {with_dropout}, mirrored strips and older weights, validation "
        "rows are not",
    )


def _settled(train: _Curve, validation: _Curve) -> Diagnosis:
    curve, name = _judged(train, validation)
    fell, _, since = _last_fall(curve)
    lowest, learned = int(np.argmin(curve.loss)), _learned(train, validation)
    share = f", {100 * abs(fell) / learned:.1f} % of all that was learned" if learned else ""
    return Diagnosis(
        CONVERGED,
        f"{name} changed by {100 * abs(fell) / max(curve.loss[-1], 1e-12):.1f} % since step {since:.0f}{share}; it "
        f"ended at {curve.loss[-1]:.3g} and was lowest at step {curve.step[lowest]:.0f} ({curve.loss[lowest]:.3g})",
    )
