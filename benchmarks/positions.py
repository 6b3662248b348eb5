"""Print how well streaks and candidates get their positions from a catalogue, with headers that point wrong.

    python benchmarks/positions.py [--folder runs/positions] [--ccds 1]

Frames of two fields, at galactic latitudes 60 and 10 deg, and of another program (`tests/another_program.py`). All
headers are off by 90 arcsec and turned by 0.2 deg. The right star of a streak is the one that gives it the most light
among those for which it is the nearest streak, by the true columns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from scipy.spatial import cKDTree

from shutterless.pipeline.astrometry.identify import identify_stars, read_any_catalogue
from shutterless.pipeline.astrometry.pointing import read_sky
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.store.ingest import ingest_amplifier
from shutterless.pipeline.store.store import open_amplifier
from shutterless.workflows.execution.cluster import open_executor
from shutterless.workflows.frames.simulate import make_room_for_frames, simulate_scene
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.settings.settings import load_settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import another_program

ERROR_ARCSEC, ERROR_DEG, BRIGHT_MAG, PSF_SIGMA_PX, CATALOGUE_ERROR_MAG = 90.0, 0.2, 14.0, 0.84, 0.03
ROWS, EVENTS, SEED = 6000, 20, 11


def main() -> None:
    """Simulate, name, search, and print one line for each number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/positions"))
    parser.add_argument("--ccds", type=int, default=1)
    arguments = parser.parse_args()
    folders = [simulate(arguments.folder, latitude, arguments.ccds) for latitude in (60, 10)]
    folders.append(write_other(arguments.folder))
    for folder in folders:
        print(f"{folder.name}:")
        name_amplifiers(folder, read_any_catalogue(folder / "catalogue.csv"))
        if (folder / "truth.parquet").is_file():
            place_candidates(folder)


def simulate(folder: Path, latitude_deg: int, n_ccds: int) -> Path:
    """Frames of a field, with wrong headers and a catalogue whose magnitudes have errors."""
    out = folder / f"latitude {latitude_deg} deg"
    scene = SceneSettings(
        sequence=f"b{latitude_deg}", seed=SEED + latitude_deg, rows=ROWS, events=EVENTS, artefacts=False,
        rho=(12.0, 30.0), galactic_latitude_deg=latitude_deg, pointing_error_arcsec=ERROR_ARCSEC,
        rotation_error_deg=ERROR_DEG,
        ccds=tuple(range(1, n_ccds + 1)),
        right_ascension_deg=150.0, declination_deg=30.0,
    )  # fmt: skip
    make_room_for_frames(out, force=True)
    with open_executor(no_dask=True) as executor:
        simulate_scene(scene, out, executor=executor)
    stars = pd.read_csv(out / "catalogue.csv")
    rng = np.random.default_rng(SEED)
    stars.assign(mag=stars["mag"] + rng.normal(0, CATALOGUE_ERROR_MAG, len(stars))).to_csv(
        out / "catalogue.csv", index=False
    )
    return out


def write_other(folder: Path) -> Path:
    """One frame of another program in the steady state, and the true positions of its stars."""
    out, rng = folder / "another program", np.random.default_rng(SEED)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for quadrant in (1, 2, 3, 4):
        wcs = another_program.pointed_at(150.0, 30.0, 0.0, quadrant)
        x, y0 = rng.uniform(8, 3063, 80), rng.integers(0, 3080, 80)
        mag = 15 + np.log10(rng.random(80)) / 0.4
        ra, dec = another_program.sky_of(wcs, quadrant, x, y0)
        rows.append(pd.DataFrame({"quadrant": quadrant, "x": x, "y0": y0, "mag": mag, "ra": ra, "dec": dec}))
    stars = pd.concat(rows, ignore_index=True)
    stars["name"] = [f"P{k}" for k in range(len(stars))]
    wrong = (150.0 + 60 / 3600 / np.cos(np.radians(30)), 30.0 + 67 / 3600, ERROR_DEG)
    path = out / "other.fits"
    path.unlink(missing_ok=True)
    placed = [
        another_program.Star(star.quadrant, star.x, star.y0, 10 ** (-0.4 * (star.mag - 24.5)) / 300)
        for star in stars.itertuples()
    ]
    another_program.write_frame(path, first_row=0, n_rows=4000, stars=placed, pulses=[], pointing=wrong)
    stars.assign(file=path.name, star_id=range(len(stars))).to_parquet(out / "stars.parquet")
    stars[["name", "ra", "dec", "mag"]].to_csv(out / "catalogue.csv", index=False)
    return out


def name_amplifiers(folder: Path, catalogue: pd.DataFrame) -> None:
    """Name the streaks of every amplifier with the catalogue, with a third of it missing, and with another field's."""
    files = sorted(folder.glob("*.fits*"))
    truth = pd.read_parquet(folder / "stars.parquet")
    streaks, readouts, skies, true = {}, {}, {}, {}
    for path in files:
        for quadrant in (1, 2, 3, 4):
            entry = ingest_amplifier(path, quadrant, folder / "store")["entry"]
            amplifier = open_amplifier(folder / "store", entry)
            streaks[entry], readouts[entry] = amplifier.streaks, amplifier.readout
            skies[entry] = read_sky(path, quadrant)
            true[entry] = truth[(truth["file"] == path.name) & (truth["quadrant"] == quadrant)]
    rng = np.random.default_rng(SEED)
    third = catalogue[rng.random(len(catalogue)) < 2 / 3]
    other = catalogue.assign(ra=rng.permutation(catalogue["ra"]), dec=rng.permutation(catalogue["dec"]))
    for what, stars in (("the whole catalogue", catalogue), ("a third missing", third)):
        for how, tables in (("", streaks), (", no onsets", {k: t.assign(y0=np.nan) for k, t in streaks.items()})):
            found = identify_stars(tables, readouts, stars, skies)
            counts = sum(count_names(found.streaks[entry], true[entry], stars) for entry in streaks)
            n, named, right, wrong, flagged, absent = counts
            print(
                f"  {what}{how}: {len(found.solved)} of {len(streaks)} amplifiers solved; of {n} streaks brighter than "
                f"r = {BRIGHT_MAG:g} {right} right ({right / n:.1%}; {absent} have no star in the catalogue), "
                f"{flagged} wrong with a flag, {wrong} wrong without, {n - named} without a name"
            )
    found = identify_stars(streaks, readouts, other, skies)
    print(f"  a catalogue of another field: {len(found.solved)} of {len(streaks)} amplifiers solved")
    print(f"    {found.warnings[0]}")


def count_names(streaks: pd.DataFrame, true: pd.DataFrame, catalogue: pd.DataFrame) -> np.ndarray:
    """Bright streaks, named ones, right names, wrong ones without and with a flag, streaks whose star is missing."""
    distance, nearest = cKDTree(streaks[["x"]]).query(true[["x"]], distance_upper_bound=2 * PSF_SIGMA_PX)
    inside = np.flatnonzero(np.isfinite(distance))
    light = 10 ** (-0.4 * true["mag"].to_numpy()) * np.exp(-((np.minimum(distance, 9) / (2 * PSF_SIGMA_PX)) ** 2))
    faint_first = inside[np.argsort(light[inside])]
    star = np.full(len(streaks), -1)
    star[nearest[faint_first]] = faint_first
    places = SkyCoord(true["ra"].to_numpy() * u.deg, true["dec"].to_numpy() * u.deg)
    known = SkyCoord(catalogue["ra"].to_numpy() * u.deg, catalogue["dec"].to_numpy() * u.deg)
    bright = (streaks["mag"] < BRIGHT_MAG).to_numpy() & (star >= 0)
    named = (streaks["name"] != "").to_numpy() & bright
    here = SkyCoord(streaks["ra"].fillna(0).to_numpy() * u.deg, streaks["dec"].fillna(0).to_numpy() * u.deg)
    right = named & (here.separation(places[star]).arcsec < 0.5)
    flagged = (streaks["star_flag"] != "").to_numpy()
    in_catalogue = places[star].match_to_catalog_sky(known)[1].arcsec < 0.01
    wrong = named & ~right
    return np.array(
        [n.sum() for n in (bright, named, right, wrong & ~flagged, wrong & flagged, bright & ~in_catalogue)]
    )


def place_candidates(folder: Path) -> None:
    """Search the frames of a field with its catalogue, and compare the candidates' positions with the truth."""
    out = folder / "search"
    settings = load_settings(None, ["search.own_rates=false"]).search  # so many events are no tail of false alarms
    with open_executor(no_dask=True) as executor:
        result = search_files(
            sorted(folder.glob("*.fits*")),
            reference="template-bank", out=out, settings=settings,
            catalogue=folder / "catalogue.csv", executor=executor, resume=True,
        )  # fmt: skip
    truth = pd.read_parquet(folder / "truth.parquet")
    pairs = [
        pair for event in truth[truth["is_event"]].itertuples() if (pair := find_candidate(event, result.candidates))
    ]
    on_star = [(event, found) for event, found in pairs if event.star_id >= 0]
    sure = [(e, f) for e, f in on_star if pd.notna(f.ra) and pd.isna(f.star_flag)]
    off = np.array([separation(event, found.ra, found.dec) for event, found in sure])
    orphans = [(event, found) for event, found in pairs if event.star_id < 0 and pd.notna(found.segment_ra_1)]
    inside = [lies_on(event, found) for event, found in orphans]
    others = [lies_on(event, found) for event, found in on_star if pd.notna(found.segment_ra_1)]
    print(f"  {result.positions}")
    print(
        f"  {len(pairs)} events found; {len(sure)} on stars beyond doubt: {np.mean(off < 0.5):.1%} within 0.5 arcsec "
        f"of the truth; {len(orphans)} orphans with a segment: it contains {np.mean(inside):.1%}; {len(others)} on "
        f"stars with a flag or without a name: the segment contains {np.mean(others) if others else np.nan:.1%}"
    )


def find_candidate(event: object, candidates: pd.DataFrame) -> tuple[object, object] | None:
    """Candidate of an event: the strongest within 2 px and its rows."""
    near = candidates[
        (candidates["file"] == event.file)
        & (candidates["quadrant"] == event.quadrant)
        & ((candidates["x"] - event.x).abs() < 2)
        & (candidates["row_start"] <= event.row_stop + 2)
        & (candidates["row_stop"] >= event.row_start - 2)
    ]
    if near.empty:
        return None
    best = near.iloc[[near["snr"].abs().to_numpy().argmax()]]
    return event, next(best.itertuples())


def separation(event: object, ra: float, dec: float) -> float:
    """Arcsec between the truth and a position."""
    return SkyCoord(event.ra * u.deg, event.dec * u.deg).separation(SkyCoord(ra * u.deg, dec * u.deg)).arcsec


def lies_on(event: object, found: object) -> bool:
    """Whether the truth is within 2 sigma of the segment."""
    true = SkyCoord(event.ra * u.deg, event.dec * u.deg)
    one, other = (
        SkyCoord(ra * u.deg, dec * u.deg)
        for ra, dec in ((found.segment_ra_1, found.segment_dec_1), (found.segment_ra_2, found.segment_dec_2))
    )
    angle = one.position_angle(true) - one.position_angle(other)
    distance, error = one.separation(true).arcsec, max(found.position_error, 0.5)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    return bool(abs(across) < 2 * error and -2 * error < along < one.separation(other).arcsec + 2 * error)


if __name__ == "__main__":
    main()
