"""Draw image cubes: images, noise maps, and light curves of their sum and of each pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import AsinhNorm, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, MaxNLocator

from shutterless.pipeline.plots.frames import BLACK, BLUE, GREY, ORANGE, SKY_BLUE, VERMILLION, explain_empty

LINEAR_SIGMA = 3.0
MAX_WRITTEN = 12  # pixels on a side up to which values are written into pixels
_UNITS_S = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3))
_LEAST_UNITS = 1.5  # of a unit; shorter times are given in the next smaller unit
_TOP = 0.22  # share of a light curve's height that is kept free for numbers
_N_TIERS, _TIER, _APART = 3, 0.075, 0.024  # heights of numbers, and distances between them as shares of the axes
_TICK = 0.045  # length of the tick of an event as a share of the axes
_CELL = (0.88, 0.72)  # share of a pixel's width and height that its light curve fills
_BELOW = 0.07  # offset of a light curve below the middle of its pixel, for text above it
_NOISE_TICKS = (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000, 3000)
_PERCENTILES = (1.0, 99.0)  # a cell spans the range between them and half of it on either side
_OUTLINED = [withStroke(linewidth=2.5, foreground="white")]


def duration_unit(span_s: float) -> tuple[str, float]:
    """Unit in which a span of time is readable, from ``"ms"`` to ``"d"``, and its seconds."""
    long_enough = [unit for unit in _UNITS_S if abs(span_s) >= _LEAST_UNITS * unit[1]]
    return long_enough[0] if long_enough else _UNITS_S[-1]


def plot_pixel_image(
    image_e: np.ndarray,
    ax: Axes,
    *,
    stars: pd.DataFrame | None = None,
    aperture: np.ndarray | None = None,
    n_labels: int = 30,
) -> Axes:
    """Show the median image of a cube with its stars and the archive's aperture.

    Parameters
    ----------
    image_e : ndarray, shape (y, x)
        Electrons per cadence; NaN (never live) is hatched. Row 0 is at the bottom, as in pictures of the archives.
    ax : Axes
    stars : DataFrame, optional
        Columns ``streak_id``, ``x``, ``y`` (pixel) and ``flux_e_row``. The brightest are labelled with their number.
    aperture : ndarray of bool, shape (y, x), optional
        Outlined.
    n_labels : int

    Returns
    -------
    Axes

    Notes
    -----
    Grey is linear up to the difference of the image's median and its tenth percentile, and logarithmic beyond.
    """
    _name_pixels(ax, image_e.shape)
    live = np.isfinite(image_e)
    if not live.any():
        return explain_empty(ax, "no live pixels")
    least, floor, middle, top = (float(value) for value in np.percentile(image_e[live], (0, 10, 50, 100)))
    softening = max(middle - floor, (top - floor) / 1000, 1e-6 * abs(top), 1e-30)
    top = max(top, floor + softening)
    image = _show(image_e, ax, (0, 0), cmap="gray", norm=AsinhNorm(softening, least, top))
    ticks = round_values(softening, least, top)
    _add_bar(image, ax, "Median light (e⁻ per cadence)", ticks, format=EngFormatter(sep=""))
    if aperture is not None:
        ax.add_collection(_outline(aperture))
    if stars is not None and len(stars):
        _mark_stars(stars, ax, n_labels)
    return ax


def plot_noise_map(noise: np.ndarray, ax: Axes) -> Axes:
    """Show the scatter of each pixel over the error of the archive or the photon noise.

    Parameters
    ----------
    noise : ndarray, shape (y, x)
        1 for the least possible scatter, and where there are too few cadences; NaN is hatched.
    ax : Axes

    Returns
    -------
    Axes
        With values written into the pixels if there are at most `MAX_WRITTEN` on a side.
    """
    _name_pixels(ax, noise.shape)
    if not np.isfinite(noise).any():
        return explain_empty(ax, "no live pixels")
    norm = LogNorm(1.0, max(2.0, float(np.nanmax(noise))))
    image = _show(noise, ax, (0, 0), cmap="cividis", norm=norm)
    ticks = [tick for tick in _NOISE_TICKS if tick <= 1.001 * max(2.0, float(np.nanmax(noise)))]
    _add_bar(image, ax, "Scatter / expected noise", ticks, format="{x:g}")
    if max(noise.shape) <= MAX_WRITTEN:
        for (y, x), value in np.ndenumerate(noise):
            colour = "white" if norm(value) < 0.5 else BLACK
            words = "" if np.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.3g}"
            ax.text(x, y, words, ha="center", va="center", fontsize=7.5, color=colour)
    return ax


def round_values(linear_width: float, low: float, high: float, apart: float = 0.09) -> list[float]:
    """0 and round values along an asinh scale, chosen from its ends inwards where labels have room.

    Parameters
    ----------
    linear_width : float
        Value up to which the scale is linear.
    low, high : float
        Its ends.
    apart : float
        Least distance between two values, as a share of the scale.
    """
    decades = 10.0 ** np.arange(np.floor(np.log10(linear_width)) - 1, np.log10(max(-low, high)) + 1)
    steps = np.outer(decades[::-1], (1.0, 5.0, 2.0)).ravel()
    values = np.append(0.0, np.stack([steps, -steps], axis=1).ravel())
    height = np.arcsinh(high / linear_width) - np.arcsinh(low / linear_width)
    taken: list[float] = []
    for value in values[(values >= low) & (values <= high)]:
        if all(abs(np.arcsinh(value / linear_width) - np.arcsinh(t / linear_width)) >= apart * height for t in taken):
            taken.append(float(value))
    return sorted(taken)


def plot_residual_image(
    residual: np.ndarray,
    ax: Axes,
    *,
    limit_sigma: float,
    place: tuple[float, float] | None = None,
    first_pixel: tuple[int, int] = (0, 0),
    bar: bool = True,
) -> Axes:
    """Show one cadence of light minus baseline.

    Parameters
    ----------
    residual : ndarray, shape (y, x)
        In units of σ; NaN (masked) is grey and hatched.
    ax : Axes
    limit_sigma : float
        The colours end at plus and minus this. They are linear up to `LINEAR_SIGMA` and logarithmic beyond. Pictures
        with the same limit can be compared.
    place : (float, float), optional
        Column and row (x, y) of a source; crossed.
    first_pixel : (int, int)
        Place (y, x) of ``residual[0, 0]``.
    bar : bool
        Add the colour bar.

    Returns
    -------
    Axes
    """
    _name_pixels(ax, residual.shape)
    norm = AsinhNorm(LINEAR_SIGMA, -limit_sigma, limit_sigma)
    image = _show(residual, ax, first_pixel, cmap="RdBu_r", norm=norm)
    if bar:
        ticks = round_values(LINEAR_SIGMA, -limit_sigma, limit_sigma)
        _add_bar(image, ax, "Light − baseline (σ)", ticks, format="{x:g}", extend="both")
    if place is not None:
        ax.plot(*place, ls="none", marker="+", ms=12, mew=1.6, color=BLACK, path_effects=_OUTLINED)
    return ax


def plot_summed_light(
    time: np.ndarray,
    light: np.ndarray,
    ax: Axes,
    *,
    marked: Mapping[int, float] | None = None,
    shaded: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = None,
    xlabel: str = "Time",
    ylabel: str = "Light (e⁻ per cadence)",
) -> Axes:
    """Draw the light curve of a cube, cadence by cadence.

    Parameters
    ----------
    time : ndarray, shape (t,)
        Time of each cadence on a regular grid, rising.
    light : ndarray, shape (t,)
        NaN where a cadence is masked or was not written. There the line breaks, with a grey tick at the bottom.
    ax : Axes
    marked : mapping of int to float, optional
        Times of events by their numbers. Each gets a tick on the upper edge, and its number below if there is room.
    shaded : (float, float), optional
        Beginning and end of an event.
    limits : (float, float), optional
        Least and largest light that is drawn; triangles on the edge mark values outside. By default all is drawn.
    xlabel, ylabel : str
        With their units.

    Returns
    -------
    Axes
    """
    ax.set(xlabel=xlabel, ylabel=ylabel)
    live = np.isfinite(light)
    if not live.any():
        return explain_empty(ax, "no live cadences")
    if shaded is not None:
        ax.axvspan(*shaded, color=ORANGE, alpha=0.35, lw=0)
    ax.plot(time, light, color=BLUE, lw=0.8, marker=".", ms=3 if live.sum() < 1000 else 2, mec="none", mfc=BLUE)
    low, high = limits or (np.min(light[live]), np.max(light[live]))
    _set_height(low, high, ax, top=_TOP if marked else 0.05)
    _mark_beyond(time, light, ax)
    lost = time[~live]
    ax.plot(lost, np.zeros(len(lost)), transform=ax.get_xaxis_transform(), ls="none", marker="|", ms=7, color=GREY)
    step = (time[-1] - time[0]) / max(len(time) - 1, 1) or 1.0
    ax.set_xlim(time[0] - step, time[-1] + step)
    ax.ticklabel_format(axis="x", useOffset=False, style="plain")
    _number_events(marked or {}, ax)
    return ax


def name_cadences(time: np.ndarray, ax: Axes, *, first_cadence: int = 0) -> Axes:
    """Add a second axis above a light curve, with cadence numbers.

    Parameters
    ----------
    time : ndarray, shape (t,)
        Times of the cadences from ``first_cadence``, rising.
    ax : Axes
        Of `plot_summed_light`.
    first_cadence : int

    Returns
    -------
    Axes
        The same as given.
    """
    if len(time) < 2:
        return ax
    cadences = first_cadence + np.arange(len(time))
    ticks = MaxNLocator(8, integer=True).tick_values(cadences[0], cadences[-1])
    ticks = ticks[(ticks >= cadences[0]) & (ticks <= cadences[-1])].astype(int)
    above = ax.secondary_xaxis("top")
    above.set_xticks(np.interp(ticks, cadences, time), [f"{tick:,}" for tick in ticks])
    above.set_xlabel("Cadence (from 0)")
    return ax


def plot_pixel_light(
    time: np.ndarray,
    light_e: np.ndarray,
    ax: Axes,
    *,
    first_pixel: tuple[int, int] = (0, 0),
    common: bool = False,
    marked: Iterable[tuple[int, float, float]] = (),
    shaded: tuple[float, float] | None = None,
) -> Axes:
    """Draw a small light curve at the place of each pixel.

    Parameters
    ----------
    time : ndarray, shape (t,)
        Runs from edge to edge of every pixel.
    light_e : ndarray, shape (y, x, t)
        Electrons per cadence; NaN where masked, which breaks the line.
    ax : Axes
    first_pixel : (int, int)
        Place (y, x) of ``light_e[0, 0]``.
    common : bool
        One range for all pixels, from the least to the largest value of all. Otherwise each pixel has its own, from its
        1st to its 99th percentile and half as much on either side. Then red dots on the edge mark values outside, and
        the range is written in (electrons, and per cent of the pixel's median if that is light).
    marked : iterable of (int, float, float)
        Numbers of events and their places (x, y). The pixel is framed, and the number is written into it.
    shaded : (float, float), optional
        Beginning and end of an event.

    Returns
    -------
    Axes
    """
    _name_pixels(ax, light_e.shape)
    n_y, n_x, _ = light_e.shape
    ax.set(
        xlim=(first_pixel[1] - 0.5, first_pixel[1] + n_x - 0.5), ylim=(first_pixel[0] - 0.5, first_pixel[0] + n_y - 0.5)
    )
    curves = light_e.reshape(n_y * n_x, -1)
    live = np.isfinite(curves).any(axis=1)
    if not live.any():
        return explain_empty(ax, "no live pixels")
    corners = np.array([(first_pixel[1] + x, first_pixel[0] + y) for y in range(n_y) for x in range(n_x)])
    across = (time - time[0]) / ((time[-1] - time[0]) or 1.0) - 0.5
    low, high = _common_range(curves[live]) if common else _own_ranges(curves[live])
    if shaded is not None:
        edges = np.clip(np.interp(shaded, time, across), -0.5, 0.5)
        _shade_cells(corners[live], edges * _CELL[0], ax)
    _draw_cells(corners[live], across, curves[live], low, high, ax)
    if not common and max(n_y, n_x) <= 2 * MAX_WRITTEN:
        _write_ranges(corners[live], curves[live], high - low, ax, with_share=n_x <= 8)
    _draw_borders(n_y, n_x, first_pixel, ax)
    _frame_pixels(marked, ax)
    return ax


def _name_pixels(ax: Axes, shape: tuple[int, ...]) -> None:
    ax.set(xlabel="Column x (pixel)", ylabel="Row y (pixel)")
    for axis, length in ((ax.yaxis, shape[0]), (ax.xaxis, shape[1])):
        axis.set_major_locator(MaxNLocator(min(length, 10), integer=True, min_n_ticks=1))


def _show(values: np.ndarray, ax: Axes, first_pixel: tuple[int, int], **colours: Any) -> Any:
    """Image with row 0 at the bottom and a hatched ground for NaN."""
    y, x = first_pixel
    n_y, n_x = values.shape
    ax.patch.set(facecolor="0.8", hatch="////", edgecolor="0.5")
    if isinstance(colours.get("cmap"), str):
        colours["cmap"] = colormaps[colours["cmap"]]
    return ax.imshow(
        np.ma.masked_invalid(values),
        extent=(x - 0.5, x + n_x - 0.5, y - 0.5, y + n_y - 0.5),
        origin="lower",
        aspect="equal",
        interpolation="nearest",
        **colours,
    )


def _add_bar(image: Any, ax: Axes, label: str, ticks: Sequence[float], **options: Any) -> None:
    """Colour bar as high as the image, even if the image is shrunk to keep its pixels square."""
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.04, 1)), label=label, ticks=ticks, **options)
    bar.minorticks_off()


def _outline(inside: np.ndarray) -> LineCollection:
    """Borders between pixels inside and outside."""
    padded = np.pad(inside.astype(bool), 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    lines = [((b - 0.5, a - 0.5), (b + 0.5, a - 0.5)) for a, b in zip(y, x, strict=True)]
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    lines += [((b - 0.5, a - 0.5), (b - 0.5, a + 0.5)) for a, b in zip(y, x, strict=True)]
    return LineCollection(lines, colors=SKY_BLUE, linewidths=2.2, capstyle="round")


def _mark_stars(stars: pd.DataFrame, ax: Axes, n_labels: int) -> None:
    ax.plot(stars["x"], stars["y"], ls="none", marker="o", ms=9, mfc="none", mec=VERMILLION, mew=1.5)
    for number, x, y in stars.nlargest(n_labels, "flux_e_row")[["streak_id", "x", "y"]].to_numpy(dtype=float):
        ax.annotate(
            f"{number:.0f}", (x, y), xytext=(7, 5), textcoords="offset points", color=VERMILLION, weight="bold",
            path_effects=_OUTLINED, annotation_clip=True,
        )  # fmt: skip


def _set_height(low: float, high: float, ax: Axes, *, top: float) -> None:
    """Set limits from the least to the largest value, with room for ticks below and for numbers above."""
    height = (high - low) or max(abs(high), 1.0) * 1e-3
    ax.set_ylim(low - 0.12 * height, high + (0.05 + top) * height)


def _mark_beyond(time: np.ndarray, light: np.ndarray, ax: Axes) -> None:
    bottom, top = ax.get_ylim()
    for edge, outside, marker in ((top, light > top, "^"), (bottom, light < bottom, "v")):
        if outside.any():
            ax.plot(time[outside], np.full(outside.sum(), edge), ls="none", marker=marker, ms=5, color=VERMILLION)


def _number_events(marked: Mapping[int, float], ax: Axes) -> None:
    """Ticks on the upper edge at the times of events, with numbers below them where there is room."""
    first, last = ax.get_xlim()
    tiers: list[list[float]] = [[] for _ in range(_N_TIERS)]
    for number, time in sorted(marked.items()):
        if not first <= time <= last:
            continue
        ax.plot([time, time], [1 - _TICK, 1], color=ORANGE, lw=1.4, transform=ax.get_xaxis_transform())
        across = (time - first) / (last - first)
        free = [k for k, taken in enumerate(tiers) if all(abs(across - other) > _APART for other in taken)]
        if free:
            tiers[free[0]].append(across)
            ax.text(
                time, 0.98 - _TICK - _TIER * free[0], f"{number}", transform=ax.get_xaxis_transform(), ha="center",
                va="top", fontsize=8, weight="bold", color=VERMILLION, path_effects=_OUTLINED,
            )  # fmt: skip


def _common_range(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range from the least to the largest value of all pixels, the same for each."""
    least, largest = np.nanmin(curves, axis=1), np.nanmax(curves, axis=1)
    spare = (np.max(largest - least) or 1.0) * 0.02
    return np.full(len(curves), least.min() - spare), np.full(len(curves), largest.max() + spare)


def _own_ranges(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range between percentiles of each pixel, and half of it on either side."""
    low, high = np.nanpercentile(curves, _PERCENTILES, axis=1)
    half = np.where(high > low, high - low, np.maximum(np.abs(high), 1.0) * 1e-3) / 2
    return low - half, high + half


def _draw_cells(
    corners: np.ndarray, across: np.ndarray, curves: np.ndarray, low: np.ndarray, high: np.ndarray, ax: Axes
) -> None:
    up = (curves - low[:, None]) / (high - low)[:, None]
    x = corners[:, :1] + _CELL[0] * across
    y = corners[:, 1:] + _CELL[1] * (np.clip(up, 0, 1) - 0.5) - _BELOW
    beyond = (up < 0) | (up > 1)
    ax.add_collection(LineCollection(list(np.stack([x, y], axis=2)), colors=BLUE, linewidths=0.7))
    isolated = _find_isolated(curves)
    ax.plot(x[isolated], y[isolated], ls="none", marker=".", ms=1.5, mec="none", color=BLUE)
    ax.plot(x[beyond], y[beyond], ls="none", marker=".", ms=4, mec="none", color=VERMILLION)


def _find_isolated(curves: np.ndarray) -> np.ndarray:
    """Live cadences between masked ones, which a line cannot show."""
    live = np.pad(np.isfinite(curves), ((0, 0), (1, 1)))
    return live[:, 1:-1] & ~live[:, :-2] & ~live[:, 2:]


def _shade_cells(corners: np.ndarray, edges: np.ndarray, ax: Axes) -> None:
    for x, y in corners:
        ax.add_patch(Rectangle((x + edges[0], y - 0.5), edges[1] - edges[0], 1.0, color=ORANGE, alpha=0.35, lw=0))


def _write_ranges(corners: np.ndarray, curves: np.ndarray, height: np.ndarray, ax: Axes, *, with_share: bool) -> None:
    middle = np.nanmedian(curves, axis=1)
    for (x, y), level, span in zip(corners, middle, height, strict=True):
        words = EngFormatter(sep="")(float(f"{span:.2g}"))
        if with_share and level > span:
            words += f" ({100 * span / level:.2g} %)"
        ax.text(x - 0.47, y + 0.46, words, fontsize=6.5, va="top", color="0.25", path_effects=_OUTLINED)


def _draw_borders(n_y: int, n_x: int, first_pixel: tuple[int, int], ax: Axes) -> None:
    y, x = first_pixel
    ax.hlines(y + np.arange(1, n_y) - 0.5, x - 0.5, x + n_x - 0.5, color="0.8", lw=0.6)
    ax.vlines(x + np.arange(1, n_x) - 0.5, y - 0.5, y + n_y - 0.5, color="0.8", lw=0.6)


def _frame_pixels(marked: Iterable[tuple[int, float, float]], ax: Axes, n_written: int = 4) -> None:
    """Frame the pixels that hold an event, with the first few of their numbers."""
    by_pixel: dict[tuple[int, int], list[int]] = {}
    for number, x, y in marked:
        by_pixel.setdefault((round(x), round(y)), []).append(number)
    for (x, y), numbers in by_pixel.items():
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=ORANGE, lw=1.8, zorder=4))
        words = ", ".join(map(str, numbers[:n_written])) + (", …" if len(numbers) > n_written else "")
        ax.text(
            x + 0.46, y - 0.46, words, ha="right", va="bottom", fontsize=7.5, weight="bold", color=VERMILLION,
            path_effects=_OUTLINED, clip_on=True,
        )  # fmt: skip
