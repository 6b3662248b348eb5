"""Catalogues: read in three formats, matched by column and magnitude, refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from shutterless.pipeline.catalogue import CatalogueError, apply_catalogue, read_catalogue

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
