"""Place the amplifiers of a mosaic in the focal plane, so that moving lights cross from one to the next.

Focal-plane coordinates are pixels in raw orientation: X along raw columns to the right, Y along raw rows upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shutterless.pipeline.reading.instruments import InstrumentProfile, QuadrantLayout

# ZTF: 16 CCDs in four rows of four (Dekany et al. 2020, PASP 132, 038001). The gaps follow from the centres of the
# quadrants nearest to the field's centre, as fitted to the astrometry of 2018 (github.com/dlakaplan/ztf_tiling,
# ZTF_quadrantcenters_20180813): 0.988 and 1.046 deg apart, less 3072 columns and 3080 rows of 1.0126 arcsec.
ZTF_CCDS = 16
GAP_COLUMNS_PX, GAP_ROWS_PX = 440.0, 640.0
# of the aperture's diameter, since the camera is in the beam (a choice)
CENTRAL_OBSTRUCTION = 0.45


class FocalPlaneError(ValueError):
    """A request for an amplifier that the focal plane does not have."""


@dataclass(frozen=True)
class AmplifierFrame:
    """Read coordinates of one amplifier in the focal plane: ``X = origin_x + sign_x x``, ``Y = origin_y + sign_y y``.

    Parameters
    ----------
    origin_x, origin_y : float
        Focal-plane place of the centre of pixel (0, 0) in read order (pixels).
    sign_x, sign_y : int
        -1 if read order runs against raw columns or raw rows.
    """

    origin_x: float
    origin_y: float
    sign_x: int
    sign_y: int

    def to_read(self, x: float, y: float) -> tuple[float, float]:
        """Column and detector row of a place in the focal plane."""
        return self.sign_x * (x - self.origin_x), self.sign_y * (y - self.origin_y)

    def to_focal(self, x: float, y: float) -> tuple[float, float]:
        """Place in the focal plane of a column and detector row."""
        return self.origin_x + self.sign_x * x, self.origin_y + self.sign_y * y


@dataclass(frozen=True)
class FocalPlane:
    """A square mosaic of equal CCDs.

    Parameters
    ----------
    n_columns, n_transit : int
        Columns and rows of one quadrant.
    quadrants : tuple of QuadrantLayout
        Quadrant 1 first.
    n_ccds : int
        CCDs fill ``ceil(√n)`` columns row by row, number 1 at the upper left.
    gap_columns_px, gap_rows_px : float
        Between neighbouring CCDs along X and along Y (pixels).

    Notes
    -----
    Read order begins at the output: column 0 is beside the amplifier, row 0 at the serial register. A quadrant whose
    raw columns are not flipped has its amplifier at the left edge of the CCD and is in the left half; if flipped, at
    the right edge. If its rows are not flipped, its register is at the lower edge and it is in the lower half; if
    flipped, at the upper edge. Quadrants with the same flips are side by side from the edge inwards.

    ZTF's single mirror reverses the parity of the sky: +X is west and +Y is south. So CCDs 1 to 4, in the south, are
    the upper row, and quadrant 1, in the north-east of its CCD, is the lower left one.
    """

    n_columns: int
    n_transit: int
    quadrants: tuple[QuadrantLayout, ...]
    n_ccds: int = ZTF_CCDS
    gap_columns_px: float = GAP_COLUMNS_PX
    gap_rows_px: float = GAP_ROWS_PX

    def __post_init__(self) -> None:
        if self.n_ccds < 1 or self.n_columns < 1 or self.n_transit < 1 or not self.quadrants:
            raise FocalPlaneError(
                f"a focal plane needs CCDs, quadrants, columns and rows, not {self.n_ccds}, {len(self.quadrants)}, "
                f"{self.n_columns}, {self.n_transit}"
            )

    @property
    def ccd_size_px(self) -> tuple[float, float]:
        """Width and height of a CCD."""
        halves_x = len({layout.flip_columns for layout in self.quadrants})
        halves_y = len({layout.flip_rows for layout in self.quadrants})
        abreast = max(self._place(number) for number in range(len(self.quadrants))) + 1
        return float(halves_x * abreast * self.n_columns), float(halves_y * self.n_transit)

    @property
    def n_across(self) -> int:
        """CCDs in one row of the mosaic."""
        return int(np.ceil(np.sqrt(self.n_ccds)))

    @property
    def size_px(self) -> tuple[float, float]:
        """Width and height of the mosaic, gaps included."""
        width, height = self.ccd_size_px
        n_down = -(-self.n_ccds // self.n_across)
        return (
            self.n_across * (width + self.gap_columns_px) - self.gap_columns_px,
            n_down * (height + self.gap_rows_px) - self.gap_rows_px,
        )

    def frame(self, ccd: int, quadrant: int) -> AmplifierFrame:
        """Place of an amplifier; both numbers count from 1."""
        if not (1 <= ccd <= self.n_ccds and 1 <= quadrant <= len(self.quadrants)):
            raise FocalPlaneError(
                f"no CCD {ccd}, quadrant {quadrant} in a focal plane of {self.n_ccds} CCDs with "
                f"{len(self.quadrants)} quadrants each; numbers start at 1"
            )
        width, height = self.ccd_size_px
        down, across = divmod(ccd - 1, self.n_across)
        left = across * (width + self.gap_columns_px)
        bottom = self.size_px[1] - height - down * (height + self.gap_rows_px)
        layout = self.quadrants[quadrant - 1]
        inwards = self._place(quadrant - 1) * self.n_columns + 0.5
        return AmplifierFrame(
            origin_x=left + width - inwards if layout.flip_columns else left + inwards,
            origin_y=bottom + height - 0.5 if layout.flip_rows else bottom + 0.5,
            sign_x=-1 if layout.flip_columns else 1,
            sign_y=-1 if layout.flip_rows else 1,
        )

    def mirrored(self, ccd: int, quadrant: int) -> tuple[int, int] | None:
        """Amplifier on the other side of the centre of a full mosaic, which has the same read coordinates there.

        None without such an amplifier.
        """
        layout = self.quadrants[quadrant - 1]
        opposite = (self.n_across * -(-self.n_ccds // self.n_across)) + 1 - ccd
        for number, other in enumerate(self.quadrants):
            flipped = other.flip_columns != layout.flip_columns and other.flip_rows != layout.flip_rows
            if flipped and self._place(number) == self._place(quadrant - 1) and 1 <= opposite <= self.n_ccds:
                return opposite, number + 1
        return None

    def _place(self, index: int) -> int:
        """Number of earlier quadrants with the same flips."""
        flips = [(layout.flip_columns, layout.flip_rows) for layout in self.quadrants]
        return flips[:index].count(flips[index])


def focal_plane(profile: InstrumentProfile, n_transit: int, n_ccds: int = ZTF_CCDS) -> FocalPlane:
    """Focal plane of an instrument whose mosaic is like ZTF's."""
    return FocalPlane(profile.n_columns, n_transit, profile.quadrants, n_ccds)
