"""Catalogues: read in three formats, matched by column and magnitude, refused with their name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from shutterless.pipeline.results.catalogue import (
    CatalogueError,
    apply_catalogue,
    check_match,
    identify_streaks,
    read_catalogue,
)

STARS = pd.DataFrame({"x": [20.0, 44.5], "y": [1234.5, 77.0], "mag": [11.0, 12.3], "name": ["V1", "V2"]})


def write(table, path):
    writers = {".csv": table.to_csv, ".parquet": table.to_parquet}
    if path.suffix == ".ecsv":
        Table.from_pandas(table).write(path, format="ascii.ecsv")
    else:
        writers[path.suffix](path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".parquet"])
def test_every_format_says_the_same(tmp_path, suffix):
    read = read_catalogue(write(STARS, tmp_path / f"stars{suffix}"))
    assert read[list(STARS)].to_dict("list") == STARS.to_dict("list")


def test_missing_columns_are_named_beside_those_there_are(tmp_path):
    path = write(STARS.rename(columns={"y": "dec", "mag": "r"}), tmp_path / "stars.csv")
    with pytest.raises(
        CatalogueError, match=r"lacks y, mag: it needs x, y, mag and has x, dec, r, name; rename or add"
    ):
        read_catalogue(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CatalogueError, match=r"stars\.txt: \.txt is not one of \.csv, \.parquet, \.ecsv"):
        read_catalogue(tmp_path / "stars.txt")
    with pytest.raises(CatalogueError, match=r"absent\.csv cannot be read: .*No such file"):
        read_catalogue(tmp_path / "absent.csv")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    with pytest.raises(CatalogueError, match=r"noise\.parquet cannot be read: "):
        read_catalogue(tmp_path / "noise.parquet")


def test_nearest_star_of_like_brightness_gives_name_and_row(make_amplifier):
    # streaks at x = 20.25 and 44.0, magnitudes 10.80 and 12.10
    amplifier = make_amplifier()
    found = apply_catalogue(amplifier.streaks, STARS, amplifier.readout)
    assert found["name"].tolist() == ["V1", "V2"]
    assert found["y0"].tolist() == [1234.5, 77.0]
    too_faint = apply_catalogue(amplifier.streaks, STARS.assign(mag=[12.0, 12.3]), amplifier.readout)
    assert too_faint["name"].tolist() == ["", "V2"]
    assert np.isnan(too_faint["y0"][0])
    too_far = apply_catalogue(amplifier.streaks, STARS.assign(x=[18.7, 44.5]), amplifier.readout)
    assert too_far["name"].tolist() == ["", "V2"]


def test_each_star_names_one_streak_and_the_nearest(make_amplifier):
    amplifier = make_amplifier(stars=((20.0, 500.0), (21.2, 500.0)))
    one = pd.DataFrame({"x": [21.0], "y": [50.0], "mag": [11.5]})
    found = apply_catalogue(amplifier.streaks, one, amplifier.readout)
    assert found["y0"].isna().tolist() == [True, False]
    assert found["name"].tolist() == ["", ""]  # the catalogue has none


def test_a_streak_without_magnitude_is_matched_by_column_alone(make_amplifier):
    amplifier = make_amplifier()
    found = apply_catalogue(amplifier.streaks.assign(mag=np.nan), STARS.assign(mag=30.0), amplifier.readout)
    assert found["name"].tolist() == ["V1", "V2"]


def test_stars_of_another_amplifier_are_left_out(make_amplifier):
    amplifier = make_amplifier(ccd=1, quadrant=2)
    catalogue = STARS.assign(ccd=[1, 1], quadrant=[2, 3])
    assert apply_catalogue(amplifier.streaks, catalogue, amplifier.readout)["name"].tolist() == ["V1", ""]


def test_positions_on_the_sky_go_along_where_the_catalogue_has_them(make_amplifier):
    amplifier = make_amplifier()
    found = apply_catalogue(amplifier.streaks, STARS.assign(ra=150.0, dec=[1.0, 2.0]).iloc[:1], amplifier.readout)
    assert found["ra"].fillna(-1).tolist() == [150.0, -1.0]
    assert found["dec"].fillna(-1).tolist() == [1.0, -1.0]


def field(make_amplifier, **readout):
    """Thirty streaks with their catalogue."""
    rng = np.random.default_rng(2)
    x = np.arange(6, 394, 13) + rng.uniform(-4, 4, 30)
    flux = 10 ** rng.uniform(1.5, 3.5, 30)
    amplifier = make_amplifier(n_columns=400, n_rows=64, stars=tuple(zip(x, flux, strict=True)), **readout)
    catalogue = amplifier.streaks[["x", "mag"]].assign(y=rng.uniform(0, 3080, 30))
    return amplifier, catalogue


def test_a_catalogue_that_fits_is_taken_without_a_word_and_resolves_every_row(make_amplifier):
    amplifier, catalogue = field(make_amplifier)
    noisy = catalogue.assign(x=catalogue["x"] + 0.2, mag=catalogue["mag"] - 0.3)
    streaks, lines = identify_streaks({"a": amplifier.streaks}, {"a": amplifier.readout}, noisy)
    assert lines == []
    assert streaks["a"]["y0"].tolist() == catalogue["y"].tolist()
    untouched, lines = identify_streaks({"a": amplifier.streaks}, {"a": amplifier.readout})
    assert untouched["a"].equals(amplifier.streaks)
    assert lines == []


@pytest.mark.parametrize("wrong", ["shifted", "mirrored", "other band", "other stars"])
def test_a_catalogue_of_other_stars_is_noticed_with_the_share_that_fits(make_amplifier, wrong):
    amplifier, catalogue = field(make_amplifier)
    rng = np.random.default_rng(3)
    changes = {
        "shifted": {"x": catalogue["x"] + 30},
        "mirrored": {"x": 399 - catalogue["x"]},
        "other band": {"mag": catalogue["mag"] + 1.5},
        "other stars": {"x": rng.uniform(5, 395, 30), "mag": rng.permutation(catalogue["mag"])},
    }
    catalogue = catalogue.assign(**changes[wrong])
    streaks, lines = identify_streaks({"a": amplifier.streaks}, {"a": amplifier.readout}, catalogue)
    assert streaks["a"]["y0"].isna().all()  # a chance match would be a wrong time marked as exact
    assert set(streaks["a"]["name"]) == {""}
    assert len(lines) == 1
    assert lines[0].startswith("a: only ")
    assert "catalogue stars (" in lines[0]
    assert "so it is not used there" in lines[0]
    assert "another quadrant, shifted, not in read order or in another band?" in lines[0]


def test_a_catalogue_without_a_star_on_the_amplifier_is_noticed(make_amplifier):
    amplifier, catalogue = field(make_amplifier, ccd=3, quadrant=2)
    line = check_match("a", amplifier.streaks, catalogue.assign(ccd=3, quadrant=1), amplifier.readout)
    assert line == "a: the catalogue has no star on CCD 3, quadrant 2"
    assert check_match("a", amplifier.streaks.iloc[:0], catalogue, amplifier.readout) == ""
    nameless = amplifier.streaks.assign(mag=np.nan)
    assert check_match("a", nameless, catalogue.assign(mag=5.0), amplifier.readout) == ""
