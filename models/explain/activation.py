"""Find the input of a given norm that activates a kernel of the CNN most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from shutterless.models.cnn import CnnDetector
from shutterless.models.explain.batches import ExplainError, tensor_batches
from shutterless.models.inputs import DetectorModel
from shutterless.models.scoring import evaluation_mode
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch

_STEP = 0.2  # of the way to the direction of the gradient; a full step would be exact only for a linear activation


@dataclass(frozen=True)
class PreferredInputs:
    """Inputs that activate ``k`` kernels of one layer most, each from ``s`` random starts.

    Parameters
    ----------
    layer : int
        Number of the convolution, from 0.
    kernels : tuple of int
    strips : ndarray, shape (k, s, y, x, t)
        Residuals as the first layer receives them: in σ up to about 5, compressed beyond. ``t`` is the number of binned
        rows in the kernel's receptive field.
    context : ndarray, shape (k, s, t)
        Shared row residuals of these inputs.
    activation : ndarray, shape (k, s)
        Output of the kernel before its non-linearity.
    """

    layer: int
    kernels: tuple[int, ...]
    strips: np.ndarray
    context: np.ndarray
    activation: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The strip with the largest activation, shape (k, y, x, t)."""
        return self.strips[np.arange(len(self.strips)), self.activation.argmax(1)]

    @property
    def agreement(self) -> np.ndarray:
        """Smallest cosine between the best input and those of the other starts, shape (k,).

        At 1, every start reached the same input. Far below 1, the kernel has several optima; the best is one of them.
        """
        flat = np.concatenate([self.strips.reshape(*self.activation.shape, -1), self.context], -1)
        flat = flat / np.linalg.norm(flat, axis=-1, keepdims=True)
        best = flat[np.arange(len(flat)), self.activation.argmax(1)]
        return np.einsum("k s d, k d -> k s", flat, best).min(1)


def receptive_rows(model: CnnDetector, layer: int) -> int:
    """Receptive field of a kernel of a layer, in binned rows of the input."""
    strides = [convolution.stride[0] for convolution in _convolutions(model)]
    steps = np.cumprod([1, *strides[:layer]])
    return 1 + (model.config.kernel_rows - 1) * int(steps.sum())


def strongest_kernels(model: DetectorModel, strips: StripBatch, layer: int, n: int = 8) -> list[int]:
    """Kernels of a layer with the largest activations on some strips (mean of the maximum over time), strongest first.

    Parameters
    ----------
    model : DetectorModel
        A CNN.
    strips : StripBatch
        Cut with the model's grid.
    layer : int
        Number of the convolution, from 0.
    n : int
        Largest number of kernels.

    Raises
    ------
    ExplainError
        If the model is no CNN or has no such layer.
    """
    cnn = _check_layer(model, layer)
    answers: list[torch.Tensor] = []
    hook = cnn.convolutions[layer].register_forward_hook(lambda module, given, maps: answers.append(maps.amax(-1)))
    try:
        with evaluation_mode(cnn), torch.inference_mode():
            for batch in tensor_batches(cnn, strips, STRIPS_AT_ONCE):
                cnn(**batch)
    finally:
        hook.remove()
    return torch.cat(answers).mean(0).argsort(descending=True, stable=True)[:n].tolist()


def maximise_activation(
    model: DetectorModel,
    layer: int = 0,
    kernels: Sequence[int] | None = None,
    *,
    norm: float = 10.0,
    n_starts: int = 4,
    n_steps: int = 200,
    seed: int = 0,
) -> PreferredInputs:
    """Find the input of a given norm that activates each kernel of a layer most.

    Parameters
    ----------
    model : DetectorModel
        A CNN.
    layer : int
        Number of the convolution, from 0.
    kernels : sequence of int, optional
        All of the layer if left out.
    norm : float
        Root of the summed squares of the residuals and the shared row residual: in units of σ it is the S/N of the
        input in a matched filter. Without this limit the activation would grow without bound.
    n_starts, seed : int
        Number of random directions to start from, and their seed.
    n_steps : int

    Returns
    -------
    PreferredInputs

    Raises
    ------
    ExplainError
        If the model is no CNN, has no such layer or kernel, or a number is not positive.

    Notes
    -----
    Erhan et al. 2009 (Univ. Montréal technical report 1341), eq. 1. Each step moves the input part of the way to the
    direction of the gradient and restores its norm; the best input of all steps is kept. In the first layer the
    activation is linear, so the optimum is the kernel's own weights, normalized. All rows count as valid. The input is
    as long as the receptive field, so no border takes part.
    """
    model = _check_layer(model, layer)
    chosen = _check(model, layer, kernels, norm, n_starts, n_steps)
    n_channels, n_rows = model.grid.profile_size + 1, receptive_rows(model, layer)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((1, n_starts, n_channels, n_rows), generator=generator)
    inputs = _normalized(start.repeat(len(chosen), 1, 1, 1).flatten(0, 1).to(model.device), norm)
    wanted = torch.tensor(chosen, device=model.device).repeat_interleave(n_starts)
    with evaluation_mode(model):
        inputs, activation = _ascend(model, layer, wanted, inputs, norm, n_steps)
    found = inputs.reshape(len(chosen), n_starts, n_channels, n_rows).cpu().numpy()
    grid = model.grid
    strips = found[:, :, :-1].reshape(len(chosen), n_starts, grid.n_y, grid.n_columns, n_rows)
    return PreferredInputs(
        layer, tuple(chosen), strips, found[:, :, -1], activation.reshape(len(chosen), n_starts).cpu().numpy()
    )


def _check_layer(model: DetectorModel, layer: int) -> CnnDetector:
    if not isinstance(model, CnnDetector):
        raise ExplainError(f"a {type(model).__name__} has no convolution kernels: give a model of the family cnn")
    n_layers = len(model.convolutions)
    if not 0 <= layer < n_layers:
        raise ExplainError(f"the model has no convolution {layer}: it has {n_layers}, numbered from 0")
    return model


def _check(
    model: CnnDetector, layer: int, kernels: Sequence[int] | None, norm: float, n_starts: int, n_steps: int
) -> list[int]:
    """Check layer, kernels and numbers; return the kernels."""
    n_kernels = _convolutions(model)[layer].out_channels
    chosen = list(range(n_kernels) if kernels is None else kernels)
    missing = [kernel for kernel in chosen if not 0 <= kernel < n_kernels]
    if missing:
        raise ExplainError(f"convolution {layer} has no kernels {missing}: it has {n_kernels}, numbered from 0")
    wrong = {n: v for n, v in {"norm": norm, "n_starts": n_starts, "n_steps": n_steps}.items() if v <= 0}
    if wrong:
        raise ExplainError(f"activation maximisation needs positive numbers: {wrong}")
    return chosen


def _ascend(
    model: CnnDetector, layer: int, wanted: torch.Tensor, inputs: torch.Tensor, norm: float, n_steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best inputs of all steps and their activations."""
    best, highest = inputs, torch.full((len(inputs),), -torch.inf, device=inputs.device)
    for _ in range(n_steps + 1):
        inputs = inputs.detach().requires_grad_()
        activation = _answer(model, layer, inputs).gather(1, wanted[:, None]).squeeze(1)
        (slope,) = torch.autograd.grad(activation.sum(), [inputs])
        better = activation.detach() >= highest
        highest = torch.where(better, activation.detach(), highest)
        best = torch.where(better[:, None, None], inputs.detach(), best)
        inputs = _normalized((1 - _STEP) * inputs.detach() + _STEP * _normalized(slope, norm), norm)
    return best, highest


def _answer(model: CnnDetector, layer: int, inputs: torch.Tensor) -> torch.Tensor:
    """Activations (b, kernels) of a layer for inputs (b, y x + 1, t) as long as its receptive field."""
    maps = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)  # (b, y x + 2, t): the mask is 1
    for number, convolution in enumerate(_convolutions(model)[: layer + 1]):
        maps = functional.gelu(maps) if number else maps
        maps = functional.conv1d(maps, convolution.weight, convolution.bias, stride=convolution.stride)
    return maps.squeeze(-1)


def _convolutions(model: CnnDetector) -> list[torch.nn.Conv1d]:
    return [module for module in model.convolutions if isinstance(module, torch.nn.Conv1d)]


def _normalized(inputs: torch.Tensor, norm: float) -> torch.Tensor:
    length = inputs.flatten(1).norm(dim=1).clamp(min=1e-12)
    return norm * inputs / length[:, None, None]
