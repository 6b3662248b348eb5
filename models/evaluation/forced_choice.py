"""Test what a model learned from its labels, by forced choices between events and false triggers of equal S/N.

Events are brighter than noise, so any score that rises with S/N orders triggers well, even that of a random network.
Completeness and area under the ROC curve then depend on how the weights were drawn. Among triggers of equal S/N, a
model that learned nothing is right in half of its choices. Its probabilities hardly differ there, so its share of right
choices is close to one half whatever its weights are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from shutterless.models.evaluation.metrics import CONFIDENCE

_BY_CHANCE = 0.5
PER_BIN = 30  # triggers; within so narrow a bin the S/N itself hardly separates events from noise


@dataclass(frozen=True)
class ForcedChoice:
    """Share of right choices, and its standard error for a score that depends on S/N alone; NaN without choices."""

    share: float
    error: float


def forced_choice(
    probability: np.ndarray, snr: np.ndarray, is_event: np.ndarray, per_bin: int = PER_BIN
) -> ForcedChoice:
    """Share of pairs of an event and a false trigger of about equal S/N in which a model chooses the event.

    Parameters
    ----------
    probability : ndarray, shape (b,)
        Of an event. It must not be calibrated on these strips: calibration would invert a model that is wrong.
    snr : ndarray, shape (b,)
        Stage-1 S/N; its sign does not count.
    is_event : ndarray of bool, shape (b,)
    per_bin : int
        Strips in a bin of S/N; bins are quantiles.

    Notes
    -----
    The model chooses in proportion to its probabilities: with p for the event and q for the false trigger, it chooses
    the event in (1 + p - q) / 2 of the cases. Its mean over all pairs within a bin, weighted by the pairs of each bin,
    is (1 + D) / 2 with the coefficient of discrimination D (Tjur 2009, American Statistician 63, 366). A choice by
    the larger of p and q would give the area under the ROC curve (Green & Swets 1966, Signal Detection Theory, §2.4),
    which ignores how sure the model is: small random differences of a network that learned nothing would count in full.

    If labels are exchangeable within a bin of n₁ events and n₀ others, the difference of their mean probabilities has
    the variance s² (1/n₁ + 1/n₀), where s² is the variance of all of them (Lehmann 1975, Nonparametrics, appendix 2).
    """
    snr, truth = np.abs(snr), np.asarray(is_event).astype(bool)
    edges = np.quantile(snr, np.linspace(0, 1, max(len(snr) // per_bin, 1) + 1)[1:-1]) if len(snr) else []
    place = np.searchsorted(edges, snr, side="right")
    gain = variance = n_pairs = 0.0
    for k in np.unique(place):
        events, others = probability[(place == k) & truth], probability[(place == k) & ~truth]
        pairs = len(events) * len(others)
        if pairs:
            gain += pairs * (events.mean() - others.mean())
            spread = np.concatenate([events, others]).var(ddof=1)
            variance += pairs**2 * spread * (1 / len(events) + 1 / len(others))
            n_pairs += pairs
    if not n_pairs:
        return ForcedChoice(float("nan"), float("nan"))
    return ForcedChoice(float(_BY_CHANCE + gain / n_pairs / 2), float(np.sqrt(variance) / n_pairs / 2))


@dataclass(frozen=True)
class LabelControl:
    """A model compared with its controls: the same model trained with shuffled labels.

    Parameters
    ----------
    name : str
    share, share_error : float
        Share of right choices with true labels, and its error as in `ForcedChoice`.
    control_share, control_share_error : float
        Mean over the controls, and its standard error from their scatter; NaN for a single one.
    n_controls : int
    learned : bool
        Whether the model learned from the true labels.
    """

    name: str
    share: float
    share_error: float
    control_share: float
    control_share_error: float
    n_controls: int
    learned: bool

    def text(self) -> str:
        """The result in one sentence."""
        if not np.isfinite(self.share):
            return f"{self.name}: no event and false trigger of equal S/N, so what its labels taught it is not known."
        true, shuffled = (f"{100 * share:.1f}" for share in (self.share, self.control_share))
        known = f" ± {100 * self.control_share_error:.1f}" if np.isfinite(self.control_share_error) else ""
        verdict = "it learned from them" if self.learned else "NO evidence that they taught it anything beyond the S/N"
        return (
            f"{self.name}: of an event and a false trigger of equal S/N it chooses the event in {true} ± "
            f"{100 * self.share_error:.1f} % with true labels, in {shuffled}{known} % with shuffled ones (trained "
            f"{self.n_controls} times): {verdict}."
        )


def judge_labels(name: str, true: ForcedChoice, controls: Sequence[float], n_seeds: int = 1) -> LabelControl:
    """Decide whether a model learned from its true labels.

    Parameters
    ----------
    name : str
    true : ForcedChoice
        With true labels; the mean over seeds, if there are several.
    controls : sequence of float
        Shares of right choices of models that were trained with shuffled labels, each with another seed.
    n_seeds : int
        Number of trainings with true labels over which ``true`` is averaged.

    Notes
    -----
    If the model learned nothing, its share with true labels has the same distribution as those of the controls, whose
    mean is 0.5 by construction. Their scatter about 0.5 has as many degrees of freedom as there are controls. It is
    added to the error of ``true``, and the distance from 0.5 is compared with Student's t at 97.5 %.
    """
    shares = np.asarray(controls, dtype=np.float64)
    scatter = np.sqrt(np.mean((shares - _BY_CHANCE) ** 2) / n_seeds)
    limit = t.isf((1 - CONFIDENCE) / 2, len(shares)) * np.hypot(scatter, true.error)
    error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
    learned = bool(true.share - _BY_CHANCE > limit)
    return LabelControl(name, true.share, true.error, float(shares.mean()), float(error), len(shares), learned)
