from __future__ import annotations

from pathlib import Path

import pytest

from shutterless.pipeline.instruments import (
    ProfileError,
    builtin_profile_names,
    load_profile,
    recognise_profile,
)


def change(tiny_profile: str, old: str, new: str) -> str:
    """Write the small profile with one thing changed, and return its path."""
    text = Path(tiny_profile).read_text()
    assert old in text
    path = Path(tiny_profile).with_name("changed.toml")
    path.write_text(text.replace(old, new, 1))
    return str(path)


def test_ztf_is_built_in_with_its_flips():
    assert "ztf" in builtin_profile_names()
    profile = load_profile("ztf")
    assert (profile.n_columns, profile.n_overscan_columns, profile.overscan_used) == (3072, 30, (20, 30))
    assert [q.flip_columns for q in profile.quadrants] == [False, True, True, False]
    assert [q.flip_rows for q in profile.quadrants] == [False, False, True, True]
    assert profile.nonlinearity == (-6.85e-12, 1.885e-7)


def test_ztf_stands_on_palomar_and_a_camera_without_site_nowhere(tiny_profile):
    site = load_profile("ztf").site
    assert (site.latitude_deg, site.longitude_deg, site.height_m) == (33.3483, -116.8597, 1706)
    assert load_profile(tiny_profile).site is None


def test_row_rate_and_clock_have_no_default():
    assert not {"row_rate_hz", "shutter_open_utc", "first_row"} & set(load_profile("ztf").defaults)


def test_a_users_profile_is_loaded_by_path(tiny_profile):
    profile = load_profile(tiny_profile)
    assert profile.name == "tiny"
    assert profile.keywords["row_rate_hz"] == "CLOCK"
    assert profile.nonlinearity is None
    assert profile.quadrants[1].flip_rows


def test_header_is_recognised_or_the_missing_keyword_named():
    assert recognise_profile({"CCD_ID": 3}).name == "ztf"
    with pytest.raises(ProfileError, match=r"no built-in instrument profile recognises .*CCD_ID.*--instrument"):
        recognise_profile({"OBJECT": "sky"})


def test_unknown_names_say_where_they_looked(tmp_path):
    with pytest.raises(ProfileError, match=r"no built-in instrument profile 'zft'; built in are .*'ztf'"):
        load_profile("zft")
    with pytest.raises(ProfileError, match=r"absent\.toml does not exist"):
        load_profile(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[geometry]", "[geometrie]", r"unknown key 'geometrie'; did you mean 'geometry'\?"),
        ('row_rate_hz = "CLOCK"', 'row_rat_hz = "CLOCK"', r"\[keywords\]: unknown key 'row_rat_hz'.*'row_rate_hz'"),
        ("flip_rows = true", "fliprows = true", r"\[\[quadrants\]\]: unknown key 'fliprows'.*'flip_rows'"),
        ("[defaults]", "[site]\nlatitude_deg = 3\n[defaults]", r"lacks .*longitude_deg"),
        (
            "[defaults]",
            "[site]\nlatitude_deg = 99\nlongitude_deg = 0\nheight_m = 0\n[defaults]",
            r"\[site\] latitude_deg = 99 is not between -90 and 90",
        ),
        ("n_transit = 50", "zzz = 50", r"unknown key 'zzz'; known keys are"),
        ('row_rate_hz = "CLOCK"', "", r"must name the header keyword of row_rate_hz"),
        (
            "overscan_used = [20, 30]",
            "overscan_used = [20, 31]",
            r"overscan_used \[20, 31\] does not lie within the 30",
        ),
        ("n_columns = 64", "", r"lacks 'n_columns'"),
        ('name = "tiny"', "name = ", r"is not valid TOML"),
    ],
)
def test_malformed_profiles_name_the_key(tiny_profile, old, new, message):
    with pytest.raises(ProfileError, match=message):
        load_profile(change(tiny_profile, old, new))


def test_a_profile_without_quadrants_is_refused(tiny_profile):
    text = Path(tiny_profile).read_text()
    start, stop = text.index("[[quadrants]]"), text.index("[keywords]")
    path = Path(tiny_profile).with_name("none.toml")
    path.write_text(text[:start] + text[stop:])
    with pytest.raises(ProfileError, match=r"names no \[\[quadrants\]\]"):
        load_profile(str(path))
