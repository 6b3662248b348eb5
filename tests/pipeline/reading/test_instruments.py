from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from shutterless.pipeline.reading.instruments import (
    CubeProfile,
    InstrumentProfile,
    ProfileError,
    builtin_profile_names,
    load_frame_profile,
    load_profile,
    recognise_profile,
)
from shutterless.pipeline.tokens import TokenGrid


def change(tiny_profile: str, old: str, new: str) -> str:
    """Write the small profile with one thing changed, and return its path."""
    text = Path(tiny_profile).read_text()
    assert old in text
    path = Path(tiny_profile).with_name("changed.toml")
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.fixture
def cube_toml(tmp_path):
    """Write the profile of Kepler with one thing changed, and return its path: ``cube_toml(old, new)``."""
    text = resources.files("shutterless.pipeline.reading.profiles").joinpath("kepler.toml").read_text()

    def write(old: str, new: str) -> str:
        assert old in text
        path = tmp_path / "changed.toml"
        path.write_text(text.replace(old, new, 1))
        return str(path)

    return write


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


def test_cubes_are_recognised_by_values_or_by_their_third_axis():
    assert recognise_profile({"TELESCOP": "Kepler  ", "MISSION": "K2"}).name == "kepler"
    assert recognise_profile({"TELESCOP": "TESS"}).name == "tess"
    assert recognise_profile({"NAXIS3": 10, "CADENCE": 2.0}).name == "cube"
    with pytest.raises(ProfileError, match=r"'cube': \['CADENCE'\], 'kepler': \['TELESCOP = Kepler'\]"):
        recognise_profile({"NAXIS3": 10, "TELESCOP": "Hubble"})


def test_profiles_say_which_files_they_are_for():
    assert {name: type(load_profile(name)) for name in builtin_profile_names()} == {
        "cube": CubeProfile,
        "kepler": CubeProfile,
        "tess": CubeProfile,
        "ztf": InstrumentProfile,
    }
    assert load_frame_profile("ztf") is load_profile("ztf")
    with pytest.raises(
        ProfileError, match=r"profile kepler is one of image cubes, continuous-readout frames are needed"
    ):
        load_frame_profile("kepler")


def test_frames_leave_the_search_to_the_settings_and_cubes_bring_their_own():
    ztf = load_profile("ztf")
    assert (dict(ztf.token_grid), dict(ztf.event_scales_s)) == ({}, {})
    for name, trend_s in (("kepler", 86_400.0), ("tess", 86_400.0), ("cube", None)):
        profile = load_profile(name)
        assert TokenGrid(**profile.token_grid).n_tokens == 16
        assert profile.trend_s == trend_s
    assert load_profile("tess").event_scales_s == {"flare": (600.0, 14400.0), "burst": (900.0, 43200.0)}
    assert dict(load_profile("cube").event_scales_s) == {}


def test_zero_points_of_the_archives():
    # a star of Kp = 12 gives 1.74e5 e-/s, one of T = 10 gives 15,000 e-/s
    for name, mag, flux_e_s in (("kepler", 12, 1.74e5), ("tess", 10, 15_000)):
        zero_point = load_profile(name).defaults["zero_point_mag"]
        assert 10 ** (0.4 * (zero_point - mag)) == pytest.approx(flux_e_s, rel=0.01)


def test_modules_of_kepler_are_read_in_five_slices():
    slices = load_profile("kepler").time_slices
    assert [slices.early_s(n) for n in (1, 5)] == pytest.approx([2.73, 0.25])
    assert (load_profile("kepler").corrected_scale, load_profile("tess").corrected_scale) == ("utc", "")


def test_keywords_of_single_outputs_are_known_too():
    known = load_profile("tess").header_keywords
    assert {"GAIN", "GAINA", "GAIND", "READNOI", "READNOIC", "TIMEDEL"} <= set(known)
    assert list(known) == sorted(known)
    assert "GAINA" not in load_profile("kepler").header_keywords


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('layout = "cube"', 'layout = "cub"', r"layout = 'cub' is none of \['frame', 'cube'\]"),
        ('layout = "cube"', "", r"unknown key 'table'"),
        (
            'time_correction = "TIMECORR"',
            'time_corr = "T"',
            r"\[columns\]: unknown key 'time_corr'; .*'time_correction'",
        ),
        ('cadence_d = "TIMEDEL"', 'cadence = "T"', r"\[keywords\]: unknown key 'cadence'; did you mean 'cadence_\w'\?"),
        ('cadence_d = "TIMEDEL"', "", r"must name the header keyword of cadence_s \(seconds\) or cadence_d \(days\)"),
        ('flux = "FLUX"', "", r"\[columns\] must name the column of flux"),
        ("[columns]", "[colums]", r"unknown key 'colums'; did you mean 'columns'\?"),
        (
            "ignored_quality_bits = [8, 11, 12]",
            "ignored_quality_bits = [0]",
            r"ignored_quality_bits has 0, bits are 1 to 63",
        ),
        ("n_slices = 5", "", r"lacks .*n_slices.*see the built-in kepler\.toml"),
        ("patch_rows = 4", "patch_rows = 5", r"\[tokens\]: TokenGrid: n_rows 64 is not a multiple of patch_rows 5"),
        ("patch_rows = 4", "patch_row = 4", r"\[tokens\]: unknown key 'patch_row'; did you mean 'patch_rows'\?"),
        ("flare = [600.0, 14400.0]", "flair = [1.0, 2.0]", r"\[events\]: unknown key 'flair'; did you mean 'flare'\?"),
        ("flare = [600.0, 14400.0]", "flare = [3, 2]", r"\[events\] flare = \[3, 2\] is not two rising positive"),
        ("trend_s = 86400.0", "trend_s = -1.0", r"\[calibration\]: trend_s = -1\.0 is not positive"),
        ('corrected_scale = "utc"', 'corrected_scale = "gps"', r"corrected_scale = 'gps' is none of .*'utc'"),
    ],
)
def test_malformed_profiles_of_cubes_name_the_key(cube_toml, old, new, message):
    with pytest.raises(ProfileError, match=message):
        load_profile(cube_toml(old, new))


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
