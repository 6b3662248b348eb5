"""Predict each patch of strips from the others with a pretrained model, and measure the error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shutterless.models.dataset import strips_to_tensors
from shutterless.models.inputs import RESIDUAL_SOFTNESS
from shutterless.models.pretraining.masked_patches import MaskedPatchModel, live_pixels
from shutterless.models.pretraining.masking import hidden_in_turn
from shutterless.models.scoring import choose_device
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, StripBatch, TokenGrid, check_same_grid, unpatchify


@dataclass(frozen=True)
class Reconstruction:
    """Strips, the prediction of each patch from others, and its error.

    Parameters
    ----------
    strips : ndarray of float32, shape (b, y, x, t)
        Residuals (σ); NaN where masked.
    predicted : ndarray of float32, shape (b, y, x, t)
        Prediction of every pixel (σ), also of masked ones; NaN where a whole patch is masked.
    hidden : ndarray of bool, shape (n,)
        Patches that were hidden in the first turn, for pictures.
    patch_error, patch_zero_error : ndarray of float64, shape (b, n)
        Mean squared error of each patch's valid pixels in compressed σ², and that of predicting 0; NaN without any.
    n_live : ndarray of int, shape (b, n)
    """

    strips: np.ndarray
    predicted: np.ndarray
    hidden: np.ndarray
    patch_error: np.ndarray
    patch_zero_error: np.ndarray
    n_live: np.ndarray

    @property
    def strip_error(self) -> np.ndarray:
        """Mean squared error of each strip's valid pixels (compressed σ²), shape (b,).

        About 0.9 for white noise, as for predicting 0; it is large for strips unlike those of the training.
        """
        return self._mean(self.patch_error)

    @property
    def strip_ratio(self) -> np.ndarray:
        """Error of each strip over that of predicting 0, (b,): 1 for noise, less for a predictable strip."""
        return self.strip_error / self._mean(self.patch_zero_error)

    @property
    def ratio(self) -> float:
        """Error over that of predicting 0, over all strips."""
        return float(np.nansum(self.patch_error * self.n_live) / np.nansum(self.patch_zero_error * self.n_live))

    def _mean(self, errors: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # a strip without valid pixels has no error
            return np.nansum(errors * self.n_live, axis=1) / self.n_live.sum(1)


@torch.inference_mode()
def reconstruct(
    model: MaskedPatchModel,
    strips: StripBatch,
    *,
    n_turns: int | None = None,
    batch_size: int = STRIPS_AT_ONCE,
    device: str = "auto",
    grid: TokenGrid | None = None,
) -> Reconstruction:
    """Predict every patch of strips from others; each is hidden in exactly one of ``n_turns`` turns.

    Parameters
    ----------
    model : MaskedPatchModel
    strips : StripBatch
    n_turns : int, optional
        One turn per token hides one patch at a time and gives the best predictions. The default is the smallest number
        that hides no larger share than in training. Neighbouring patches are hidden in different turns.
    batch_size : int
    device : str
        "auto" (a GPU if there is one) or a torch device. The model is moved there and back.
    grid : TokenGrid, optional
        Grid the strips were cut with, to be compared with the model's.

    Returns
    -------
    Reconstruction
    """
    if grid is not None:
        check_same_grid(grid, model.grid, "the batch of strips")
    masking, n_tokens = model.config.token_masking, model.grid.n_tokens
    turns = hidden_in_turn(n_tokens, n_turns or min(max(-int(-1 // masking.share), 2), n_tokens))
    home, target = model.device, torch.device(choose_device(device))
    was_training = model.training
    model.to(target).eval()
    parts = [_predict(model, strips[i : i + batch_size], turns) for i in range(0, len(strips), batch_size)]
    model.to(home).train(was_training)
    shape = (0, n_tokens, model.grid.patch_size)
    predicted = np.concatenate([np.empty(shape, np.float32), *(part[0] for part in parts)])
    errors = np.concatenate([np.empty((0, n_tokens, 3)), *(part[1] for part in parts)])
    return _assemble(strips, predicted, errors, turns[0].numpy(), model.grid)


def _predict(model: MaskedPatchModel, strips: StripBatch, turns: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (b, n, d) in compressed σ; sums of squared errors, of squares, and of valid pixels (b, n, 3)."""
    tensors = {name: values.to(model.device) for name, values in strips_to_tensors(strips).items()}
    predicted = torch.zeros_like(tensors["patches"])
    sums = torch.zeros(*predicted.shape[:2], 3, dtype=torch.float64, device=model.device)
    for turn in turns:
        hidden = turn.to(model.device) & tensors["mask"]
        output = model(hidden, **tensors)
        predicted = torch.where(hidden.unsqueeze(-1), output.predicted, predicted)
        sums += torch.stack([*output.squared_errors(), output.live.sum(-1)], -1)
    return predicted.cpu().numpy(), sums.cpu().numpy()


def _assemble(
    strips: StripBatch, predicted: np.ndarray, sums: np.ndarray, hidden: np.ndarray, grid: TokenGrid
) -> Reconstruction:
    live = live_pixels(torch.from_numpy(strips.patches), torch.from_numpy(strips.mask)).numpy()
    pixels = np.where(live, strips.patches, np.nan).astype(np.float32)
    guess = RESIDUAL_SOFTNESS * np.sinh(predicted / RESIDUAL_SOFTNESS)
    guess = np.where(strips.mask[:, :, None], guess, np.nan).astype(np.float32)
    n_live = sums[:, :, 2]
    with np.errstate(invalid="ignore"):
        error, zero = sums[:, :, 0] / n_live, sums[:, :, 1] / n_live
    return Reconstruction(unpatchify(pixels, grid), unpatchify(guess, grid), hidden, error, zero, n_live.astype(int))
