"""Draw the picture of a continuous readout at the top of the README: docs/figures/readout.png.

    python benchmarks/readout_figure.py --out docs/figures

Left: the CCD at two moments, each beside the rows of the image whose charge it holds then. Middle: the image. Right:
the light of both stars against its time of arrival. Every pixel follows from one formula: light that falls on row y of
the CCD at time t is read in row k = v·t + y. Noise and the blur along rows are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from shutterless.pipeline.plots.frames import BLUE, GREY, ORANGE, SKY_BLUE, VERMILLION

STYLE = {"font.size": 16, "axes.titlesize": 19, "axes.labelsize": 16, "figure.dpi": 100, "savefig.dpi": 100}
ARROW = {"arrowstyle": "-|>", "lw": 2.5, "mutation_scale": 22, "shrinkA": 0, "shrinkB": 0}

ROW_RATE_HZ = 300.0
N_TRANSIT = 3080
N_ROWS, N_COLUMNS = 7300, 60
EDGES = (-0.5, N_COLUMNS - 0.5)  # outer edges of the columns, whose centres are whole numbers
SKY_E_S = 314 / (N_TRANSIT / ROW_RATE_HZ)  # per pixel, r = 20.8 mag/arcsec²
STAR_E_ROW, PSF_SIGMA_PX = 831.0, 0.84  # r = 11, 2.0″
MOMENT_S = 13.0  # middle of the flash, and of the pickup
FLASH_S, FLASH_FACTOR = 0.2, 3.0
PICKUP_S, PICKUP_E = 0.1, 250.0
APERTURE_PX = 2  # to either side
WHITE_E = 1000.0  # pixel value drawn in white


class Star(NamedTuple):
    """A star at a fixed position on the CCD; rows are counted from the serial register."""

    name: str
    column: int
    row: int


STARS = (Star("A", 17, 800), Star("B", 45, 2300))


# --- the formula ------------------------------------------------------------------------------------------------------


def read_row(seconds: float, ccd_row: int = 0) -> int:
    """Row of the image that holds the light falling on a CCD row at a given time."""
    return round(ROW_RATE_HZ * seconds) + ccd_row


def collected(rows: np.ndarray, until_s: np.ndarray | float) -> np.ndarray:
    """Electrons that rows of the image have collected until a given time, shape (t, x).

    The shutter opens at 0 s. A row is exposed from the time when it leaves the far edge, or from 0 s if it left before.
    It passes each star once, and collects the light that the star emits at that time.
    """
    starts_s = np.maximum(0, (rows - N_TRANSIT) / ROW_RATE_HZ)
    pixels = np.repeat(SKY_E_S * (until_s - starts_s)[:, None], N_COLUMNS, axis=1)
    for star in STARS:
        passes_s = (rows - star.row) / ROW_RATE_HZ
        light_e = np.where((passes_s >= 0) & (passes_s <= until_s), STAR_E_ROW, 0)
        light_e[np.abs(passes_s - MOMENT_S) <= FLASH_S / 2] *= FLASH_FACTOR
        pixels += light_e[:, None] * column_profile(star)
    return pixels


def column_profile(star: Star) -> np.ndarray:
    """Share of a star's light in each column, shape (x,)."""
    profile = np.exp(-0.5 * ((np.arange(N_COLUMNS) - star.column) / PSF_SIGMA_PX) ** 2)
    return profile / profile.sum()


def written(rows: np.ndarray) -> np.ndarray:
    """The image, shape (t, x): the charge of each row at its readout, and the pickup during the readout."""
    read_s = rows / ROW_RATE_HZ
    pickup_e = np.where(np.abs(read_s - MOMENT_S) <= PICKUP_S / 2, PICKUP_E, 0)
    return collected(rows, read_s) + pickup_e[:, None]


def star_light(star: Star, rows: np.ndarray) -> np.ndarray:
    """Electrons above the sky in the columns of a star, shape (t,)."""
    sky_e = SKY_E_S * np.minimum(rows, N_TRANSIT) / ROW_RATE_HZ
    columns = slice(star.column - APERTURE_PX, star.column + APERTURE_PX + 1)
    return (written(rows)[:, columns] - sky_e[:, None]).sum(axis=1)


# --- the CCD ----------------------------------------------------------------------------------------------------------


def plot_ccd(ax: Axes) -> Axes:
    """Draw the CCD when the shutter opens and when the stars flash, beside the rows that it holds at each time."""
    for seconds in (0.0, MOMENT_S):
        draw_moment(ax, seconds)
    first = read_row(MOMENT_S)
    ax.text(N_COLUMNS / 2, N_TRANSIT + 60, "0 s: the shutter opens", ha="center")
    ax.text(N_COLUMNS / 2, first + N_TRANSIT + 60, f"{MOMENT_S:.0f} s: both stars flash", ha="center", color=VERMILLION)
    ax.text(N_COLUMNS + 8, first - 260, "amplifier: electronic pickup", ha="right", va="top", color=BLUE)
    ax.annotate("", (5, first + 300), (5, first + 2800), arrowprops={**ARROW, "color": "white"})
    ax.text(7.5, first + 1900, f"charge moves\n{ROW_RATE_HZ:.0f} rows/s", color="white", va="center")
    rows = [0, *(star.row for star in STARS), N_TRANSIT]
    ax.set_yticks([start + row for start in (0, first) for row in rows], labels=[f"{row:,}" for row in rows] * 2)
    ax.set_title("The CCD at two moments")
    ax.set_ylabel("Row of the CCD, $y$")
    return ax


def draw_moment(ax: Axes, seconds: float) -> None:
    """Draw the charge on the CCD at one moment, the stars above it, the register and the amplifier."""
    first = read_row(seconds)
    show(ax, collected(first + np.arange(N_TRANSIT), seconds), first)
    ax.add_patch(Rectangle((EDGES[0], first - 200), N_COLUMNS, 200, fc="0.8", ec="black", clip_on=False))
    ax.text(N_COLUMNS / 2, first - 105, "register", ha="center", va="center", size=14)
    corners = [(EDGES[1], first - 220), (EDGES[1], first + 20), (EDGES[1] + 5, first - 100)]
    ax.add_patch(Polygon(corners, fc=BLUE, ec=BLUE, clip_on=False))
    for star in STARS:
        ax.plot(star.column, first + star.row, marker="*", ms=20, mfc=ORANGE, mec="black")
        ax.text(star.column + 3, first + star.row + 60, star.name, color="white", weight="bold")


def show(ax: Axes, pixels: np.ndarray, first_row: int) -> None:
    """Draw pixels, later rows above earlier ones."""
    extent = (*EDGES, first_row, first_row + len(pixels))
    ax.imshow(
        pixels, cmap="gray", vmin=0, vmax=WHITE_E, extent=extent, origin="lower", aspect="auto", interpolation="nearest"
    )
    ax.add_patch(Rectangle((EDGES[0], first_row), N_COLUMNS, len(pixels), fill=False, ec="black", clip_on=False))


# --- the image --------------------------------------------------------------------------------------------------------


def plot_image(ax: Axes) -> Axes:
    """Draw the image, with the rows of streak starts, flash and pickup, and the times at which rows are read."""
    show(ax, written(np.arange(N_ROWS)), 0)
    ticks = {0: "black", N_TRANSIT: "black", read_row(MOMENT_S): BLUE}
    ticks |= {star.row: "black" for star in STARS} | {read_row(MOMENT_S, star.row): VERMILLION for star in STARS}
    ax.set_yticks(list(ticks), labels=[f"{row:,}" for row in ticks])
    for label, colour in zip(ax.get_yticklabels(), ticks.values(), strict=True):
        label.set_color(colour)
    clock = ax.secondary_yaxis("right", functions=(lambda row: row / ROW_RATE_HZ, lambda second: second * ROW_RATE_HZ))
    clock.set_ylabel("Time of reading (s), upward")
    clock.spines[:].set_visible(False)
    ax.set_title("The image that is written")
    ax.set_ylabel("Row of the image, $k = v\\,t + y$")
    name_rows(ax)
    return ax


def name_rows(ax: Axes) -> None:
    """Label the features of the image."""
    low, high = (read_row(MOMENT_S, star.row) for star in STARS)
    for star in STARS:
        ax.text(star.column + 3, star.row, "streak\nbegins", color="white", va="center")
        ax.text(star.column + 3, N_ROWS - 150, star.name, color="white", weight="bold", va="top")
        ax.text(1.5, read_row(MOMENT_S, star.row) + 60, "flash", color=ORANGE)
    ax.text(1.5, read_row(MOMENT_S) + 60, "pickup", color=SKY_BLUE)
    ax.text(1.5, N_TRANSIT - 60, "sky fills\nup", color="white", va="top")
    ax.annotate("", (23, low), (23, high), arrowprops={**ARROW, "arrowstyle": "<|-|>", "color": ORANGE})
    words = f"{high - low:,} rows\n= {(high - low) / ROW_RATE_HZ:.1f} s"
    ax.text(24.5, (low + high) / 2, words, color=ORANGE, va="center")


def join(ccd: Axes, image: Axes) -> None:
    """Draw lines from the stars and the amplifier to the rows with their light, or with the pickup."""
    for seconds, colour in ((0.0, GREY), (MOMENT_S, VERMILLION)):
        for star in STARS:
            row = read_row(seconds, star.row)
            lead(ccd, (star.column, N_COLUMNS + 8), row, colour)
            lead(image, (EDGES[0], star.column), row, colour)
    lead(ccd, (EDGES[1], N_COLUMNS + 8), read_row(MOMENT_S), BLUE)


def lead(ax: Axes, columns: tuple[float, float], row: int, colour: str) -> None:
    """Draw a dashed line along a row."""
    ax.plot(columns, (row, row), color=colour, ls="--", lw=1.6, clip_on=False, zorder=1.5)


# --- the light --------------------------------------------------------------------------------------------------------


def plot_light(star: Star, ax: Axes) -> Axes:
    """Draw a star's light against the time at which it arrived, t = (k - y0)/v."""
    rows = np.arange(star.row, N_ROWS)
    ax.plot((rows - star.row) / ROW_RATE_HZ, star_light(star, rows) / 1000, color="black", lw=1.8)
    ax.axvline(MOMENT_S, color=VERMILLION, ls="--", lw=1.6, zorder=1)
    ax.text(MOMENT_S - 0.4, 2.55, "flash", color=VERMILLION, ha="right")
    ax.text(MOMENT_S - star.row / ROW_RATE_HZ, 2.15, "pickup", color=BLUE, ha="center")
    ax.text(0.5, 2.55, star.name, weight="bold")
    ax.set(xlim=(0, 16), ylim=(0, 2.9), xticks=range(0, 16, 5), yticks=range(3), ylabel="Light (1,000 e⁻/row)")
    return ax


def readout_figure() -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(16.0, 9.0), facecolor="white")
    widths = {"width_ratios": (1.0, 1.2, 0.85), "left": 0.075, "right": 0.985, "wspace": 0.46}
    grid = figure.add_gridspec(2, 3, bottom=0.085, top=0.945, hspace=0.16, **widths)
    ccd, image = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[:, 1])
    plot_ccd(ccd)
    plot_image(image)
    join(ccd, image)
    for ax in (ccd, image):
        ax.set(xlim=EDGES, ylim=(-230, N_ROWS), xticks=range(0, N_COLUMNS, 20), xlabel="Column (pixel)")
        ax.spines[:].set_visible(False)
    light = figure.add_subplot(grid[0, 2]), figure.add_subplot(grid[1, 2])
    for star, ax in zip(reversed(STARS), light, strict=True):
        plot_light(star, ax)
    light[0].set_title("By time of arrival")
    light[0].set_xlabel("flash together, pickup apart", size=15)
    light[0].tick_params(labelbottom=False)
    light[1].set_xlabel("$t = (k - y_0)\\,/\\,v$  (s)")
    return figure


def main() -> None:
    """Make the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "readout.png"
    with mpl.rc_context(STYLE):
        readout_figure().savefig(path, pil_kwargs={"optimize": True})
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
