"""Report on image cubes: their list, their pixels, their light curves, and the light curve of every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.stats import gaussian_sigma_to_fwhm, mad_std

from shutterless.pipeline.amplifier import Amplifier
from shutterless.pipeline.plots.cubes import (
    name_cadences,
    plot_noise_map,
    plot_pixel_image,
    plot_pixel_light,
    plot_summed_light,
)
from shutterless.pipeline.reading.cubes import NOT_IN_FILE
from shutterless.workflows.pages.drawings import new_figure, picture, window
from shutterless.workflows.pages.formats import Columns, number, tabulate, unbroken
from shutterless.workflows.pages.parts import Card, Definitions, Heading, Paragraph, Part, Section, Table
from shutterless.workflows.pages.run_folder import (
    RunFolder,
    is_cube,
    manifest_with,
    required,
)
from shutterless.workflows.report.cube_entry import (
    CubeEntry,
    archive_text,
    duration_text,
    median_light,
    read_light,
    relative_light,
    scale_text,
    sum_light,
    time_label,
)

MAX_PIXELS = 15  # on a side; each pixel gets its own light curve
MAX_CUBE_SECTIONS = 16
N_RAYS = 12
_ZOOM = 4.0  # a light curve whose range exceeds that of its central 98 % by this factor is drawn again without the rest
_NO_CANDIDATES = pd.DataFrame({"time_archive": [], "x": [], "y": []})


# the report of a search


def write_cubes(run: RunFolder) -> list[Part]:
    """List the cubes with their numbers, and describe the one that is drawn."""
    manifest = required(run.manifest, "store/")
    cube = shown_cube(run)
    found = run.candidates if run.candidates is not None else pd.DataFrame({"file": []})
    if len(manifest) == 1:
        return [_entry_numbers(cube)]
    words = f"{len(manifest)} entries in the store; the sections below show {cube.folder.name}."
    listed = _entry_table(manifest, found["file"].value_counts())
    return [Paragraph(words), listed, Heading(cube.folder.name), _entry_numbers(cube)]


def write_view(view: View, run: RunFolder) -> list[Part]:
    """Draw one cube with the listed candidates."""
    cube = shown_cube(run)
    return view(cube, leading_candidates(run, cube.folder))


@lru_cache(maxsize=1)  # five sections draw it; its files are read and its light is summed once for all
def shown_cube(run: RunFolder) -> CubeEntry:
    """Cube of the first candidate, or the first of the store.

    Raises
    ------
    LeftOutError
        If the folder has no cube.
    """
    return CubeEntry(required(run.shown_entry, "store/"))


def leading_candidates(run: RunFolder, folder: Path) -> pd.DataFrame:
    """The best of each group in one entry, without vetoed ones, by their numbers in the list."""
    listed = run.listed[run.listed["leads"].astype(bool) & run.listed["veto"].eq("")]
    here = [number for number, candidate in listed.iterrows() if run.entry_of(candidate) == folder]
    return listed.loc[here]


# the report of a store


def cube_store_sections(store: Path, entries: Sequence[str] = ()) -> list[Section]:
    """Write the sections on the image cubes of a store.

    Parameters
    ----------
    store : Path
    entries : sequence of str
        Cubes to draw; when left out, the first `MAX_CUBE_SECTIONS`.

    Raises
    ------
    StoreError
        If there is no finished store, or it has no such entry.
    """
    manifest = manifest_with(store, entries)
    cubes = manifest[is_cube(manifest)]
    names = list(cubes["entry"])
    shown = [name for name in names if name in entries] if entries else names[:MAX_CUBE_SECTIONS]
    words = f"{len(names)} image cubes. Pictures follow of {len(shown)} of them" + (
        "." if len(shown) == len(names) else f"; `shutterless report {Path(store).name} --entry ENTRY` shows any other."
    )
    cards = [Card(name, describe_cube(Path(store) / name), f"entry-{name}", wide=True) for name in shown]
    links = {(place, 0): f"#entry-{name}" for place, name in enumerate(names) if name in shown}
    listed = replace(_entry_table(cubes), links=links, sortable=True)
    return [
        Section("cubes", "Image cubes", [Paragraph(words), listed]),
        Section("cube-pictures", "Their pictures", cards),
    ]


def describe_cube(folder: Path) -> list[Part]:
    """Numbers and drawings of one cube, without candidates."""
    cube = CubeEntry(folder)
    views = [part for _, heading, view in VIEWS for part in (Heading(heading), *view(cube, _NO_CANDIDATES))]
    return [_entry_numbers(cube), *views]


# both reports


def _entry_table(manifest: pd.DataFrame, counts: pd.Series | None = None) -> Table:
    """One line for each entry, with the number of its candidates if known."""

    def masked_percent(row: pd.Series) -> float:
        return 100 * (1 - row["live_pixel_rows"] / (_height(row) * row["n_columns"] * row["n_rows"]))

    columns: Columns = {
        "entry": "entry",
        "object": "sequence",
        "instrument": "instrument",
        "x × y (px)": lambda row: f"{number(row['n_columns'], '{:.0f}')} × {_height(row):.0f}",
        "cadences": ("n_rows", "{:,.0f}"),
        "masked (%)": lambda row: number(masked_percent(row), "{:.1f}"),
        "cadence": lambda row: unbroken(duration_text(1 / row["row_rate_hz"])),
        "span": lambda row: unbroken(duration_text(row["n_rows"] / row["row_rate_hz"])),
        "stars": ("n_streaks", "{:.0f}"),
    }
    if counts is not None:
        columns["candidates"] = lambda row: str(int(counts.get(row["file"], 0)))
    return tabulate(manifest, columns)


def _height(row: pd.Series) -> float:
    return 1 if pd.isna(row["n_y"]) else row["n_y"]


def _entry_numbers(cube: CubeEntry) -> Definitions:
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
        ("Star image (FWHM)", f"{number(gaussian_sigma_to_fwhm * amplifier.psf_sigma_px, '{:.2f}')} px"),
        ("Pointing", _describe_motion(cube.motion_px)),
        ("Light of all pixels", f"{number(float(median_light(cube.total_e)), '{:,.0f}')} e⁻ per cadence (median)"),
        ("Noise / expected", _describe_noise(quiet)),
    ]
    return Definitions(pairs)


def _describe_masked(cube: CubeEntry) -> str:
    """Number of cadences without light with the reasons, and of masked pixels in the other cadences."""
    masked = np.isnan(cube.total_e)
    quality = np.zeros(len(masked)) if cube.quality is None else cube.quality
    kinds = {
        "not in the file": masked & (quality == NOT_IN_FILE),
        "flagged": masked & (quality > 0),
        "without time, pointing or pixels": masked & (quality == 0),
    }
    reasons = ", ".join(f"{rows.sum():,} {why}" for why, rows in kinds.items() if rows.any())
    words = f"{masked.sum():,} cadences ({100 * masked.mean():.1f} %)" + (f": {reasons}" if reasons else "")
    return f"{words}; {_count_isolated(cube.amplifier, ~masked):,} single pixels of the others"


def _count_isolated(amplifier: Amplifier, live: np.ndarray) -> int:
    """Number of masked pixels in live cadences, without those that are always masked."""
    n_lone = 0
    for row in amplifier.residual:
        masked = np.isnan(row[:, live])
        n_lone += int(masked[~masked.all(axis=1)].sum())
    return n_lone


def _describe_motion(motion_px: np.ndarray | None) -> str:
    """Motion of the stars, if it was subtracted."""
    known = np.empty((0, 2)) if motion_px is None else motion_px[np.isfinite(motion_px).all(axis=1)]
    if not len(known):
        return "taken as steady"
    spread = mad_std(known, axis=0)
    return f"moves by {number(float(np.hypot(*spread)), '{:.2g}')} px (rms), followed"


def _describe_noise(noise: np.ndarray) -> str:
    if not noise.size:
        return "unknown"
    return f"{np.median(noise):.2f} (median pixel), {noise.max():.2f} (largest)"


def draw_pixels(cube: CubeEntry, _: pd.DataFrame) -> list[Part]:
    """Draw the median image with stars and aperture, and the noise map beside it."""
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
    return [picture(drawing, caption, alt="Median image and noise map", image=True)]


def draw_light(cube: CubeEntry, candidates: pd.DataFrame) -> list[Part]:
    """Draw the light curves of the sum of all pixels and of the archive's aperture."""
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
        + (" Orange ticks: candidates, by their numbers in the list." if marked else "")
        + (" Red triangles: values beyond the panel." if any(limits for _, _, limits in curves) else "")
    )
    return [picture(drawing, caption, alt="Light curve of all pixels together", image=True)]


def _summed_curves(cube: CubeEntry) -> list[tuple[str, np.ndarray, tuple[float, float] | None]]:
    """Title, light (electrons) and limits of each panel; another omits the largest event."""
    curves: list[tuple[str, np.ndarray, tuple[float, float] | None]] = [("all pixels", cube.total_e, None)]
    if cube.aperture is not None:
        aperture_e = sum_light(cube.amplifier, cube.aperture)
        curves.append((f"archive's aperture ({cube.aperture.sum()} pixels)", aperture_e, None))
    limits = calm_limits(relative_light(cube.total_e)[0])
    return [*curves, ("all pixels, without the extremes", cube.total_e, limits)] if limits else curves


def calm_limits(values: np.ndarray) -> tuple[float, float] | None:
    """Range of the central 98 % of a light curve and half as much on either side; None if little lies outside."""
    live = values[np.isfinite(values)]
    if not live.size:
        return None
    low, high = (float(edge) for edge in np.percentile(live, (1, 99)))
    half = (high - low) / 2
    return (low - half, high + half) if np.ptp(live) > _ZOOM * 2 * half > 0 else None


def draw_every_pixel(cube: CubeEntry, candidates: pd.DataFrame) -> list[Part]:
    """Draw a small light curve for each pixel, or for each around the brightest star."""
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
    return [picture(drawing, caption, alt="Light curve of each pixel", image=True)]


def list_cosmic_rays(cube: CubeEntry, _: pd.DataFrame) -> list[Part]:
    """Text and a table of the strongest peaks in the file's summed light that are not from a star."""
    rays = cube.cosmic_rays
    if rays.empty:
        return [Paragraph("No pixel was masked as the hit of a cosmic ray.")]
    strongest = rays.sort_values("charge_e", ascending=False, kind="stable").head(N_RAYS)
    readout, median_e = cube.amplifier.readout, np.nanmedian(cube.total_e)
    words = (
        f"{len(rays):,} hits were masked: light in one cadence alone that is sharper than a star can be, or crooked. "
        "They stand out of the sum of the file's pixels, and are left out of the light curves above. The strongest:"
    )
    columns: Columns = {
        scale_text(readout.time_scale): lambda ray: archive_text(
            float(readout.archive_time(ray["row"])), cube.amplifier
        ),
        "UTC": lambda ray: str(readout.read_utc(ray["row"])[0])[:19] or "unknown",
        "cadence": ("row", "{:.0f}"),
        "x": ("x", "{:.0f}"),
        "y": ("y", "{:.0f}"),
        "pixels": ("n_pixels", "{:.0f}"),
        "S/N of brightest": ("snr", "{:.1f}"),
        "% of all light": lambda ray: number(100 * ray["charge_e"] / median_e, "{:.1f}") if median_e > 0 else "–",
    }
    return [Paragraph(words), tabulate(strongest, columns)]


def shown_pixels(cube: CubeEntry) -> tuple[slice, slice]:
    """Rows and columns with light curves: all, or `MAX_PIXELS` around the brightest star or pixel."""
    stars = cube.amplifier.streaks
    if len(stars):
        star = stars.loc[stars["flux_e_row"].idxmax()]
        place = float(star["y"]), float(star["x"])
    else:
        y_brightest, x_brightest = np.unravel_index(np.argmax(np.nan_to_num(cube.image_e)), cube.shape)
        place = float(y_brightest), float(x_brightest)
    y, x = (window(round(middle), MAX_PIXELS, size) for middle, size in zip(place, cube.shape, strict=True))
    return y, x


View = Callable[[CubeEntry, pd.DataFrame], list[Part]]
VIEWS: tuple[tuple[str, str, View], ...] = (  # anchor, heading, and the function that draws it
    ("pixels", "The pixels", draw_pixels),
    ("light", "Light curve", draw_light),
    ("every-pixel", "Every pixel", draw_every_pixel),
    ("cosmic-rays", "Cosmic rays", list_cosmic_rays),
)
