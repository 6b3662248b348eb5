"""Sections of the report on image cubes: which there are, their pixels, their light, and the light of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.stats import mad_std

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.calibration.cubes.cosmic_rays import COLUMNS
from shutterless.pipeline.compiled.medians import MAD_TO_SIGMA
from shutterless.pipeline.plots.cubes import (
    duration_unit,
    name_cadences,
    plot_noise_map,
    plot_pixel_image,
    plot_pixel_light,
    plot_summed_light,
)
from shutterless.pipeline.reading.cubes import NOT_IN_FILE
from shutterless.pipeline.store.store import StoreError, open_amplifier, read_manifest
from shutterless.workflows.pages.page import definitions, figure, new_figure, number, paragraph, table
from shutterless.workflows.pages.run_folder import N_LISTED, RunFolder, best_of_groups, is_cube, required

MAX_PIXELS = 15  # on a side, of which each gets a light curve of its own
MAX_CUBE_SECTIONS = 16
N_RAYS = 12
_ARRAYS = ("quality", "pixel_noise", "aperture", "motion_px")
_ZOOM = 4.0  # a light curve whose range is so many times that of its central 98 % is drawn again without the rest
_FWHM = np.sqrt(8 * np.log(2))
_NO_CANDIDATES = pd.DataFrame({"time_archive": [], "x": [], "y": []})


class CubeEntry:
    """One image cube of a store, and its light.

    Parameters
    ----------
    folder : Path
        Of the entry.

    Raises
    ------
    StoreError
        If the entry is absent or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.amplifier: Amplifier = open_amplifier(self.folder.parent, self.folder.name)
        self.quality, noise, self.aperture, self.motion_px = (_load(self.folder / f"{name}.npy") for name in _ARRAYS)
        self.noise = np.full(self.shape, np.nan) if noise is None else noise
        rays = _load(self.folder / "cosmic_rays.npy")
        self.cosmic_rays = pd.DataFrame(np.zeros((0, len(COLUMNS))) if rays is None else rays, columns=list(COLUMNS))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width (pixels)."""
        return self.amplifier.n_y, self.amplifier.n_columns

    @cached_property
    def time(self) -> np.ndarray:
        """The archive's time of each cadence, shape (t,)."""
        return self.amplifier.readout.archive_time(np.arange(self.amplifier.n_rows))

    @cached_property
    def total_e(self) -> np.ndarray:
        """Light of all pixels together (electrons per cadence), as `sum_light`."""
        return sum_light(self.amplifier, np.ones(self.shape, dtype=bool))

    @cached_property
    def image_e(self) -> np.ndarray:
        """Median light of each pixel (electrons per cadence), shape (y, x); NaN where it is always masked."""
        return np.stack([median_light(read_light(self.amplifier, slice(y, y + 1))[0]) for y in range(self.shape[0])])


def _load(path: Path) -> np.ndarray | None:
    return np.load(path) if path.is_file() else None


def read_light(
    amplifier: Amplifier, y: slice = slice(None), columns: slice = slice(None), rows: slice = slice(None)
) -> np.ndarray:
    """Light of some pixels (electrons per cadence), float32 of shape (y, x, t); NaN where masked."""
    start, stop, _ = rows.indices(amplifier.n_rows)
    level, sigma = (part(y, columns, start, stop) for part in (amplifier.level_rows, amplifier.sigma_rows))
    return level + sigma * np.asarray(amplifier.residual[y, columns, start:stop], dtype=np.float32)


def sum_light(amplifier: Amplifier, wanted: np.ndarray) -> np.ndarray:
    """Sum of the light of some pixels (electrons per cadence), float64 of shape (t,).

    Parameters
    ----------
    amplifier : Amplifier
    wanted : ndarray of bool, shape (y, x)
        Pixels that are always masked do not count.

    Notes
    -----
    A pixel that is masked in a cadence has its baseline there, so that the sum does not fall; where half of the pixels
    or more are masked, the sum is NaN.
    """
    total, n_live, n_pixels = np.zeros(amplifier.n_rows), np.zeros(amplifier.n_rows, dtype=int), 0
    for y in np.flatnonzero(wanted.any(axis=1)):
        residual = np.asarray(amplifier.residual[y], dtype=np.float32)
        live = np.isfinite(residual)
        used = wanted[y] & live.any(axis=1)
        row = slice(y, y + 1), slice(None), 0, amplifier.n_rows
        light = amplifier.level_rows(*row)[0] + amplifier.sigma_rows(*row)[0] * np.where(live, residual, 0)
        total += light[used].sum(axis=0, dtype=np.float64)
        n_live += live[used].sum(axis=0)
        n_pixels += int(used.sum())
    return np.where(2 * n_live > n_pixels, total, np.nan)


def median_light(light: np.ndarray) -> np.ndarray:
    """Median over the last axis, NaN where nothing is live."""
    live = np.isfinite(light).any(axis=-1)
    return np.where(live, np.nanmedian(np.where(live[..., None], light, 0), axis=-1), np.nan)


def relative_light(total_e: np.ndarray) -> tuple[np.ndarray, str]:
    """Change of a light curve in per cent of its median, and what that is called.

    Where the median is lost in the scatter, as in differences of images, a percentage means nothing: electrons then.
    """
    middle = float(median_light(total_e))
    scatter = MAD_TO_SIGMA * float(median_light(np.abs(total_e - middle)))
    if not middle > scatter:
        return total_e - middle, "Light − median (e⁻ per cadence)"
    return 100 * (total_e / middle - 1), "Light − median (% of median)"


def duration_text(seconds: float) -> str:
    """Return a segment of time in the unit in which it is readable, ``"2.45 h"``."""
    if pd.isna(seconds):
        return "–"
    unit, unit_s = duration_unit(seconds)
    return f"{number(seconds / unit_s, '{:.3g}')} {unit}"


def time_label(time_scale: str) -> str:
    """Label of an axis of the archive's time, with its scale and unit."""
    if not time_scale:
        return "Archive's time"
    scale = scale_text(time_scale)
    return f"Time ({scale})" if scale.startswith(("seconds", "days")) else f"Time ({scale}; days)"


def scale_text(time_scale: str) -> str:
    """Name of the archive's time without the zeros of a whole second."""
    return time_scale.replace(" - ", " − ").replace(".000000", "")


def archive_text(time: float, amplifier: Amplifier) -> str:
    """Write a time of the archive to a thousandth of a cadence."""
    archive = amplifier.readout.archive_time(np.array([0, amplifier.n_rows - 1]))
    step = (archive[1] - archive[0]) / max(amplifier.n_rows - 1, 1)
    decimals = int(np.clip(3 - np.floor(np.log10(step)), 0, 9)) if step > 0 else 6
    return number(time, f"{{:.{decimals}f}}")


# the report of a search


def write_cubes(run: RunFolder) -> str:
    """List the cubes with their numbers, and say more of the one that is shown."""
    manifest = required(run.manifest, "store/")
    cube = shown_cube(run)
    found = run.candidates if run.candidates is not None else pd.DataFrame({"file": []})
    counts = found["file"].value_counts()
    parts = [_entry_numbers(cube)]
    if len(manifest) > 1:
        words = f"{len(manifest)} entries in the store; the sections below show {cube.folder.name}."
        parts = [paragraph(words), _entry_table(manifest, counts), f"<h3>{escape(cube.folder.name)}</h3>", *parts]
    return "".join(parts)


def write_pixels(run: RunFolder) -> str:
    """Draw the median image of the cube that is shown, and its noise."""
    return pixels_html(shown_cube(run))


def write_light(run: RunFolder) -> str:
    """Draw the light of all pixels together, with the candidates."""
    cube = shown_cube(run)
    return light_html(cube, numbered_candidates(run, cube.folder))


def write_every_pixel(run: RunFolder) -> str:
    """Draw the light of each pixel."""
    cube = shown_cube(run)
    return every_pixel_html(cube, numbered_candidates(run, cube.folder))


def write_cosmic_rays(run: RunFolder) -> str:
    """List the strongest of what was taken for cosmic rays."""
    return cosmic_rays_html(shown_cube(run))


@lru_cache(maxsize=1)  # five sections show it: one reading of its files and one sum of its light serve all of them
def shown_cube(run: RunFolder) -> CubeEntry:
    """Cube of the first candidate, or the first of the store.

    Raises
    ------
    LeftOutError
        If the folder has none.
    """
    return CubeEntry(required(run.shown_entry, "store/"))


def numbered_candidates(run: RunFolder, folder: Path | None = None) -> pd.DataFrame:
    """Candidates that the report lists, by their numbers in the list from 1; those of one entry if it is given."""
    if run.candidates is None or run.candidates.empty:
        return _NO_CANDIDATES
    best, sizes = best_of_groups(run.candidates)
    listed = best.assign(n_in_group=sizes).head(N_LISTED)
    listed.index += 1
    if folder is None:
        return listed
    return listed[[run.entry_of(candidate) == folder for _, candidate in listed.iterrows()]]


# the report of a store


def cube_store_sections(store: Path, entries: Sequence[str] = ()) -> list[tuple[str, str, str]]:
    """Anchor, heading and HTML of the parts of a store that are image cubes.

    Parameters
    ----------
    store : Path
    entries : sequence of str
        Cubes to show pictures of; left out, the first `MAX_CUBE_SECTIONS`.

    Raises
    ------
    StoreError
        If there is no finished store, or it has no such entry.
    """
    manifest = read_manifest(store)
    known = list(manifest["entry"])
    unknown = [entry for entry in entries if entry not in known]
    if unknown:
        raise StoreError(f"store {store} has no entry {unknown[0]!r}; it holds {', '.join(known) or 'none'}")
    cubes = manifest[is_cube(manifest)]
    names = list(cubes["entry"])
    shown = [name for name in names if name in entries] if entries else names[:MAX_CUBE_SECTIONS]
    words = f"{len(names)} image cubes. Pictures follow of {len(shown)} of them" + (
        "." if len(shown) == len(names) else f"; `shutterless report {Path(store).name} --entry ENTRY` shows any other."
    )
    listed = paragraph(words) + _entry_table(cubes)
    return [("cubes", "Image cubes", listed), *((name, name, cube_html(Path(store) / name)) for name in shown)]


def cube_html(folder: Path) -> str:
    """Numbers and pictures of one cube, without candidates."""
    cube = CubeEntry(folder)
    parts = {
        "The pixels": pixels_html(cube),
        "Light curve": light_html(cube, _NO_CANDIDATES),
        "Every pixel": every_pixel_html(cube, _NO_CANDIDATES),
        "Cosmic rays": cosmic_rays_html(cube),
    }
    return _entry_numbers(cube) + "".join(f"<h3>{heading}</h3>{part}" for heading, part in parts.items())


# what both show


def _entry_table(manifest: pd.DataFrame, counts: pd.Series | None = None) -> str:
    """One line for each entry, with the number of its candidates where they are known."""
    header = ["entry", "object", "instrument", "x × y (px)", "cadences", "masked (%)", "cadence", "span", "stars"]
    header += ["candidates"] if counts is not None else []
    rows = []
    for _, row in manifest.iterrows():
        n_y = 1 if pd.isna(row["n_y"]) else row["n_y"]
        n_all, cadence_s = n_y * row["n_columns"] * row["n_rows"], 1 / row["row_rate_hz"]
        cells = [
            str(row["entry"]),
            str(row["sequence"]),
            str(row["instrument"]),
            f"{number(row['n_columns'], '{:.0f}')} × {n_y:.0f}",
            number(row["n_rows"], "{:,.0f}"),
            number(100 * (1 - row["live_pixel_rows"] / n_all), "{:.1f}"),
            duration_text(cadence_s).replace(" ", "\u00a0"),
            duration_text(row["n_rows"] * cadence_s).replace(" ", "\u00a0"),
            number(row["n_streaks"], "{:.0f}"),
        ]
        rows.append(cells + ([str(int(counts.get(row["file"], 0)))] if counts is not None else []))
    return table(header, rows)


def _entry_numbers(cube: CubeEntry) -> str:
    amplifier, readout = cube.amplifier, cube.amplifier.readout
    ends = np.array([0, amplifier.n_rows - 1])
    utc = [str(time)[:19] or "unknown" for time in readout.read_utc(ends)]
    archive = [archive_text(time, amplifier) for time in readout.archive_time(ends)]
    stars = amplifier.streaks
    mag = stars["mag"].min() if len(stars) else np.nan
    quiet = cube.noise[np.isfinite(cube.noise)]
    pairs = [
        ("File", amplifier.file),
        ("Object", readout.sequence),
        ("Image", f"{cube.shape[1]} × {cube.shape[0]} pixels (x × y)"),
        ("Cadence", f"{duration_text(1 / readout.row_rate_hz)}, {amplifier.n_rows:,} of them"),
        ("First and last (UTC)", f"{utc[0]} – {utc[1]}"),
        ("First and last", f"{archive[0]} – {archive[1]}, {scale_text(readout.time_scale)}"),
        ("Masked", _describe_masked(cube)),
        ("Stars", f"{len(stars)}" + ("" if pd.isna(mag) else f", the brightest of magnitude {mag:.2f}")),
        ("Star image (FWHM)", f"{number(_FWHM * amplifier.psf_sigma_px, '{:.2f}')} px"),
        ("Pointing", _describe_motion(cube.motion_px)),
        ("Light of all pixels", f"{number(float(median_light(cube.total_e)), '{:,.0f}')} e⁻ per cadence (median)"),
        ("Noise / expected", _describe_noise(quiet)),
    ]
    return definitions(pairs)


def _describe_masked(cube: CubeEntry) -> str:
    """How many cadences have no light, and why, and how many pixels of the others have none."""
    masked = np.isnan(cube.total_e)
    quality = np.zeros(len(masked)) if cube.quality is None else cube.quality
    kinds = {
        "not in the file": masked & (quality == NOT_IN_FILE),
        "flagged": masked & (quality > 0),
        "without time, pointing or pixels": masked & (quality == 0),
    }
    reasons = ", ".join(f"{rows.sum():,} {why}" for why, rows in kinds.items() if rows.any())
    words = f"{masked.sum():,} cadences ({100 * masked.mean():.1f} %)" + (f": {reasons}" if reasons else "")
    return f"{words}; {_count_lone(cube.amplifier, ~masked):,} single pixels of the others"


def _count_lone(amplifier: Amplifier, live: np.ndarray) -> int:
    """Masked pixels in live cadences; those that are always masked do not count."""
    n_lone = 0
    for row in amplifier.residual:
        masked = np.isnan(row[:, live])
        n_lone += int(masked[~masked.all(axis=1)].sum())
    return n_lone


def _describe_motion(motion_px: np.ndarray | None) -> str:
    """How far the stars move, where that was taken off."""
    known = np.empty((0, 2)) if motion_px is None else motion_px[np.isfinite(motion_px).all(axis=1)]
    if not len(known):
        return "taken as steady"
    spread = mad_std(known, axis=0)
    return f"moves by {number(float(np.hypot(*spread)), '{:.2g}')} px (rms), followed"


def _describe_noise(noise: np.ndarray) -> str:
    if not noise.size:
        return "unknown"
    return f"{np.median(noise):.2f} (median pixel), {noise.max():.2f} (largest)"


def pixels_html(cube: CubeEntry) -> str:
    """Return the median image with stars and aperture, and the noise map beside it."""
    drawing = new_figure(9.6, float(np.clip(1.0 + 3.4 * cube.shape[0] / cube.shape[1], 2.4, 6.0)))
    left, right = drawing.subplots(1, 2)
    plot_pixel_image(cube.image_e, left, stars=cube.amplifier.streaks, aperture=cube.aperture)
    plot_noise_map(cube.noise, right)
    n_stars = len(cube.amplifier.streaks)
    stars = "Circles: stars found, by their numbers. " if n_stars else "No star was found. "
    aperture = "Blue outline: the archive's aperture. " if cube.aperture is not None else ""
    caption = (
        f"Left: median over all live cadences, electrons per cadence, sky as the file has it. {stars}{aperture}"
        "Right: scatter of each pixel after calibration over what the archive's errors or photons and read noise "
        "explain; σ in this report includes it. Pixels are counted from 0, row 0 at the bottom."
    )
    return figure(drawing, caption, alt="Median image and noise map", image=True)


def light_html(cube: CubeEntry, candidates: pd.DataFrame) -> str:
    """Return the light curves of all pixels together and of the archive's aperture."""
    label = time_label(cube.amplifier.readout.time_scale)
    marked = {int(n): float(time) for n, time in candidates["time_archive"].items() if pd.notna(time)}
    curves = _summed_curves(cube)
    drawing = new_figure(9.6, 0.6 + 2.5 * len(curves))
    axes = drawing.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (title, light, limits) in zip(axes, curves, strict=True):
        values, ylabel = relative_light(light)
        plot_summed_light(cube.time, values, ax, marked=marked, limits=limits, xlabel="", ylabel=ylabel)
        ax.set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel(label)
    name_cadences(cube.time, axes[0])
    caption = (
        f"Median: {number(float(median_light(cube.total_e)), '{:,.0f}')} e⁻ per cadence. Grey ticks at the bottom: "
        "cadences that are masked or not in the file; no line crosses them. A pixel that is masked alone has its "
        "baseline there."
        + (" Orange lines: candidates, by their numbers in the list." if marked else "")
        + (" Red triangles: values beyond the panel." if any(limits for _, _, limits in curves) else "")
    )
    return figure(drawing, caption, alt="Light curve of all pixels together", image=True)


def _summed_curves(cube: CubeEntry) -> list[tuple[str, np.ndarray, tuple[float, float] | None]]:
    """Title, light (electrons) and limits of each panel; what the largest event hides gets a panel without it."""
    curves: list[tuple[str, np.ndarray, tuple[float, float] | None]] = [("all pixels", cube.total_e, None)]
    if cube.aperture is not None:
        aperture_e = sum_light(cube.amplifier, cube.aperture)
        curves.append((f"archive's aperture ({cube.aperture.sum()} pixels)", aperture_e, None))
    limits = calm_limits(relative_light(cube.total_e)[0])
    return [*curves, ("all pixels, without the extremes", cube.total_e, limits)] if limits else curves


def calm_limits(values: np.ndarray) -> tuple[float, float] | None:
    """Range of the central 98 % of a light curve and half as much on either side, None where little lies outside."""
    live = values[np.isfinite(values)]
    if not live.size:
        return None
    low, high = (float(edge) for edge in np.percentile(live, (1, 99)))
    half = (high - low) / 2
    return (low - half, high + half) if np.ptp(live) > _ZOOM * 2 * half > 0 else None


def every_pixel_html(cube: CubeEntry, candidates: pd.DataFrame) -> str:
    """Return a small light curve for each pixel, or for each around the brightest star."""
    y, columns = shown_pixels(cube)
    light = read_light(cube.amplifier, y, columns)
    (n_y, n_x), (height, n_columns) = light.shape[:2], cube.shape
    drawing = new_figure(9.6, float(np.clip(9.6 * n_y / n_x * (0.55 if n_x < MAX_PIXELS else 0.8), 2.5, 10)))
    places = [(int(n), float(row["x"]), float(row["y"])) for n, row in candidates.iterrows() if pd.notna(row["y"])]
    plot_pixel_light(
        cube.time,
        light,
        drawing.subplots(),
        first_pixel=(y.start, columns.start),
        marked=[
            (n, a, b) for n, a, b in places if round(a) in range(n_columns)[columns] and round(b) in range(height)[y]
        ],
    )
    whole = (n_y, n_x) == cube.shape
    where = "" if whole else f"{n_x} × {n_y} of {n_columns} × {height} pixels, around the brightest star. "
    caption = (
        f"{where}In each pixel its light from the first cadence (left) to the last (right), on a scale of its own: its "
        "1st to 99th percentile and half as much on either side. Above each: the height of that scale in electrons per "
        "cadence, and in per cent of the pixel's median where that is light. Red dots on the edge: values beyond it."
        + (" Orange frames: pixels of candidates, with their numbers." if places else "")
    )
    return figure(drawing, caption, alt="Light curve of each pixel", image=True)


def cosmic_rays_html(cube: CubeEntry) -> str:
    """Words, and a table of the strongest: peaks of the file's summed light that are no light of a star."""
    rays = cube.cosmic_rays
    if rays.empty:
        return paragraph("No pixel was masked as the hit of a cosmic ray.")
    strongest = rays.sort_values("charge_e", ascending=False, kind="stable").head(N_RAYS)
    readout, median_e = cube.amplifier.readout, np.nanmedian(cube.total_e)
    rows = [
        [
            archive_text(float(readout.archive_time(ray.row)), cube.amplifier),
            str(readout.read_utc(ray.row)[0])[:19] or "unknown",
            *(number(value, "{:.0f}") for value in (ray.row, ray.x, ray.y)),
            number(ray.n_pixels, "{:.0f}"),
            number(ray.snr, "{:.1f}"),
            number(100 * ray.charge_e / median_e, "{:.1f}") if median_e > 0 else "–",
        ]
        for ray in strongest.itertuples()
    ]
    words = (
        f"{len(rays):,} hits were masked: light in one cadence alone that is sharper than a star can be, or crooked. "
        "They stand out of the sum of the file's pixels, and are left out of the light curves above. The strongest:"
    )
    header = [
        scale_text(readout.time_scale),
        "UTC",
        "cadence",
        "x",
        "y",
        "pixels",
        "S/N of brightest",
        "% of all light",
    ]
    return paragraph(words) + table(header, rows)


def shown_pixels(cube: CubeEntry) -> tuple[slice, slice]:
    """Rows and columns that get light curves: all, or `MAX_PIXELS` around the brightest star or pixel."""
    stars = cube.amplifier.streaks
    if len(stars):
        star = stars.loc[stars["flux_e_row"].idxmax()]
        place = float(star["y"]), float(star["x"])
    else:
        y_brightest, x_brightest = np.unravel_index(np.argmax(np.nan_to_num(cube.image_e)), cube.shape)
        place = float(y_brightest), float(x_brightest)
    y, x = (window(round(middle), MAX_PIXELS, size) for middle, size in zip(place, cube.shape, strict=True))
    return y, x


def window(middle: int, length: int, size: int) -> slice:
    """So many around the middle, moved to lie inside."""
    start = int(np.clip(middle - length // 2, 0, max(size - length, 0)))
    return slice(start, min(start + length, size))
