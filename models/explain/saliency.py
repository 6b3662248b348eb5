"""Gradient of the event logit, and the contribution of each pixel and stage-1 feature to it, for every family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from shutterless.models.explain.batches import ExplainError, event_logit, tensor_batches
from shutterless.models.inputs import DetectorModel, ModelInputs
from shutterless.models.scoring import evaluation_mode
from shutterless.pipeline.tokens import StripBatch, TokenGrid, unpatchify

_INPUTS = ("patches", "context", "profile", "features")
# on 12 triggers of a simulated frame, the sums of the bundled transformer differed by at most 0.0001 from differences
# of up to 11 logits (with 64 steps by 0.03); with a CNN's maximum over time by 0.001
_STEPS = 128


@dataclass(frozen=True)
class Saliency:
    """Gradient of the event logit of ``b`` strips with respect to the inputs of the model.

    Parameters
    ----------
    patches : ndarray, shape (b, n, d)
        Logit per σ of residual.
    context : ndarray, shape (b, n, r)
        Logit per σ of shared row residual.
    profile : ndarray, shape (b, y x)
        Logit per σ of the sky in the static profile.
    features : ndarray, shape (b, f)
        Logit per unit of each stage-1 feature.
    logit : ndarray, shape (b,)
        The event logit itself.
    """

    patches: np.ndarray
    context: np.ndarray
    profile: np.ndarray
    features: np.ndarray
    logit: np.ndarray

    def strip(self, grid: TokenGrid) -> np.ndarray:
        """Values of the patches as a strip (b, y, x, t)."""
        return unpatchify(self.patches, grid)

    def by_input(self) -> dict[str, np.ndarray]:
        """Sum over each of the four inputs, shape (b,)."""
        return {name: getattr(self, name).reshape(len(self.logit), -1).sum(1) for name in _INPUTS}


@dataclass(frozen=True)
class Attribution(Saliency):
    """Contribution of each input to the event logit, in logits, relative to an empty strip.

    ``baseline_logit`` (b,) is the logit of the empty strip: residuals and shared rows 0, static profile and features
    at their mean over the training strips, the mask as it is.
    """

    baseline_logit: np.ndarray

    @property
    def completeness_error(self) -> np.ndarray:
        """Sum of all attributions minus the difference of the logits, shape (b,): the error of the integral."""
        return np.sum(list(self.by_input().values()), axis=0) - (self.logit - self.baseline_logit)


def gradient_saliency(model: DetectorModel, strips: StripBatch, *, batch_size: int = 64) -> Saliency:
    """Differentiate the event logit with respect to all inputs of the model.

    Parameters
    ----------
    model : DetectorModel
    strips : StripBatch
        Cut with the model's grid.
    batch_size : int

    Returns
    -------
    Saliency
        0 where the strip is masked.

    Notes
    -----
    Simonyan et al. 2014 (arXiv:1312.6034), with signs. The gradient is the effect of a little more light. A pixel
    so bright that more light changes nothing has none, though it may decide the score: see `integrated_gradients`.
    """
    parts = []
    with evaluation_mode(model):
        for batch in tensor_batches(model, strips, batch_size):
            given = {name: batch[name].requires_grad_() for name in _INPUTS}
            logit = model(**given, mask=batch["mask"]).event_logit
            parts.append(_to_arrays(_gradients(logit, given), logit=logit))
    return Saliency(**_joined(model, parts, ("logit",)))


def integrated_gradients(
    model: DetectorModel, strips: StripBatch, *, n_steps: int = _STEPS, batch_size: int = 64
) -> Attribution:
    """Distribute the event logit over the pixels and stage-1 features.

    Parameters
    ----------
    model : DetectorModel
    strips : StripBatch
        Cut with the model's grid.
    n_steps : int
        Points of the integral. `Attribution.completeness_error` shows whether they are enough.
    batch_size : int

    Returns
    -------
    Attribution

    Raises
    ------
    ExplainError
        If ``n_steps`` is below 1.

    Notes
    -----
    Sundararajan et al. 2017 (arXiv:1703.01365), eq. 1: the gradient averaged along the straight line from a baseline,
    times the difference from the baseline. By their completeness axiom (proposition 1) the attributions sum to
    the difference of the logits. The line is straight in the scaled inputs of the layers, where a cosmic ray of 1,000 σ
    is 30. In raw residuals, the logit would be constant along nearly all of it. Integration is by Gauss–Legendre.
    """
    if n_steps < 1:
        raise ExplainError(
            f"integrated gradients with n_steps {n_steps}: at least 1 is needed, 128 are enough for most models"
        )
    place, weight = np.polynomial.legendre.leggauss(n_steps)  # on -1 to 1
    line = list(zip((place + 1) / 2, weight / 2, strict=True))
    parts = []
    with evaluation_mode(model):
        for batch in tensor_batches(model, strips, batch_size):
            parts.append(_integrate(model, batch, line))
    return Attribution(**_joined(model, parts, ("logit", "baseline_logit")))


def _integrate(
    model: DetectorModel, batch: Mapping[str, torch.Tensor], line: list[tuple[float, float]]
) -> dict[str, np.ndarray]:
    """Attributions of a batch; in scaled inputs the baseline is 0."""
    with torch.no_grad():
        end = model.scaling(**batch)
        way = {name: getattr(end, name) for name in _INPUTS}
        logit, at_baseline = (event_logit(model, _scaled(way, f, end.mask)) for f in (1.0, 0.0))
    mean = {name: torch.zeros_like(values) for name, values in way.items()}
    for distance, weight in line:
        point = {name: (distance * values).requires_grad_() for name, values in way.items()}
        slopes = _gradients(event_logit(model, _scaled(point, 1.0, end.mask)), point)
        for name, slope in slopes.items():
            mean[name] += weight * slope
    shares = {name: way[name] * mean[name] for name in _INPUTS}
    return _to_arrays(shares, logit=logit, baseline_logit=at_baseline)


def _scaled(values: Mapping[str, torch.Tensor], factor: float, mask: torch.Tensor) -> ModelInputs:
    return ModelInputs(**{name: factor * value for name, value in values.items()}, mask=mask)


def _gradients(logit: torch.Tensor, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of each strip's own logit; strips of a batch do not affect each other."""
    return dict(zip(given, torch.autograd.grad(logit.sum(), list(given.values())), strict=True))


def _to_arrays(values: Mapping[str, torch.Tensor], **logits: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: value.detach().double().cpu().numpy() for name, value in {**values, **logits}.items()}


def _joined(model: DetectorModel, parts: list[dict[str, np.ndarray]], logits: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Join batches; without strips the arrays are empty."""
    grid = model.grid
    shapes: dict[str, tuple[int, ...]] = {
        "patches": (grid.n_tokens, grid.patch_size),
        "context": (grid.n_tokens, grid.patch_rows),
        "profile": (grid.profile_size,),
        "features": (len(model.config.feature_names),),
        **dict.fromkeys(logits, ()),
    }
    return {name: np.concatenate([np.empty((0, *s)), *(part[name] for part in parts)]) for name, s in shapes.items()}
