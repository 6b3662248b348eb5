"""Build time templates around a box of the scan: boxes, Gaussians and flares of several widths, in bins of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shutterless.pipeline.events.light_curves import event_light_curve

# shapes tried around a box of width w: name, keyword arguments, scale in units of w
SHAPES = (
    *(("box", "burst", {"profile": "tophat"}, scale) for scale in (0.7, 1.0, 1.4)),
    *(("gaussian", "burst", {"profile": "gaussian"}, scale) for scale in (0.6, 0.85, 1.2)),
    *(("flare", "flare", {}, scale) for scale in (0.25, 0.4, 0.6, 0.9)),
)
HALF_ROW_WIDTH = 8  # rows at any rate: up to this width, templates are also centred between two rows
BINS_PER_WIDTH = 16  # longer boxes are fitted to rows binned to this many per width


@dataclass(frozen=True)
class ShapeBank:
    """Time templates for boxes of one width.

    ``kernels`` is (s, k), each row of unit norm; ``names`` are their shapes; ``bin_rows`` the rows of a bin; ``pre``
    the bin of the centre; ``max_shift`` the largest shift in bins to either side. ``start`` and ``stop`` bound the
    central 90 % of each template, ``peak`` is its highest bin, all relative to the centre; ``peak_value`` is the
    largest element.
    """

    kernels: np.ndarray
    names: tuple[str, ...]
    bin_rows: int
    pre: int
    max_shift: int
    start: np.ndarray
    stop: np.ndarray
    peak: np.ndarray
    peak_value: np.ndarray


@lru_cache(maxsize=128)
def shape_bank(width_rows: int, sigma_rows: float) -> ShapeBank:
    """Time templates around a box of ``width_rows``, smeared by the PSF, in bins of rows for speed.

    Short templates exist twice, centred on a row and between two rows. An offset of half a row would cost a burst of
    negligible duration 8 % of its S/N.
    """
    bin_rows = max(width_rows // BINS_PER_WIDTH, 1)
    width = width_rows / bin_rows
    pre, post = int(np.ceil(max(2 * width, 6))), int(np.ceil(max(6 * width, 8)))
    n_bins, centre = pre + post + 1, pre * bin_rows + (bin_rows - 1) / 2
    curves, names = [], []
    for phase in (0.0, 0.5) if width_rows <= HALF_ROW_WIDTH else (0.0,):
        for name, kind, arguments, scale in SHAPES:
            curve = event_light_curve(
                kind, n_bins * bin_rows, centre + phase, scale * width_rows, sigma_rows, **arguments
            )
            curves.append(curve.reshape(n_bins, bin_rows).sum(axis=1))
            names.append(name)
    kernels = np.asarray(curves)
    cumulative = np.cumsum(kernels, axis=1) / kernels.sum(axis=1, keepdims=True)
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    return ShapeBank(
        kernels=kernels.astype(np.float32),
        names=tuple(names),
        bin_rows=bin_rows,
        pre=pre,
        max_shift=int(np.ceil(max(width, 3))),
        start=(cumulative >= 0.05).argmax(axis=1) - pre,
        stop=(cumulative >= 0.95).argmax(axis=1) - pre,
        peak=kernels.argmax(axis=1) - pre,
        peak_value=kernels.max(axis=1),
    )
