from __future__ import annotations

import gzip
import os
import warnings

import numpy as np
import pytest
from astropy.io import fits
from fake_cubes import star_images, write_kepler, write_plain

from shutterless.pipeline.reading.frames import (
    FrameError,
    check_varies,
    frame_stem,
    open_amplifier_rows,
    read_amplifier,
    read_frame_info,
    to_read_order,
)
from shutterless.pipeline.reading.headers.structure import StoredHdu
from shutterless.pipeline.reading.instruments import ProfileError, load_profile

SUFFIXES = [".fits", ".fits.gz", ".fits.fz"]


def coded(first_row: int, n_rows: int, n_columns: int) -> np.ndarray:
    """Image in read order whose pixels name their sequence row and column."""
    rows, columns = np.arange(first_row, first_row + n_rows), np.arange(n_columns)
    return (7 * rows[:, None] + columns).astype(np.uint16)


def raw_quadrants(first_row: int, n_rows: int, n_columns: int = 3072) -> list[np.ndarray]:
    return [to_read_order(coded(first_row, n_rows, n_columns), layout) for layout in load_profile("ztf").quadrants]


@pytest.mark.parametrize("quadrant", [1, 2, 3, 4])
def test_read_order_of_data_and_overscan(write_frame, quadrant):
    image, overscan = coded(0, 20, 3072), coded(50, 20, 30)
    flips = [(1, 1), (1, -1), (-1, -1), (-1, 1)]  # (rows, columns) of quadrants 1 to 4
    path = write_frame(
        data=[image[::rows, ::columns] for rows, columns in flips],
        overscan=[overscan[::rows, ::columns] for rows, columns in flips],
    )
    frame = read_amplifier(path, quadrant)
    np.testing.assert_array_equal(frame.pixels_adu, image)
    np.testing.assert_array_equal(frame.overscan_adu, overscan)
    assert frame.readout.quadrant == quadrant


def test_rows_of_a_split_sequence_are_flipped_within_each_file(write_frame):
    # 100 rows as 60 + 40: sequence row 60 of quadrant 3 is the last raw row of the second file
    first = write_frame("first.fits", data=raw_quadrants(0, 60))
    second = write_frame("second.fits", data=raw_quadrants(60, 40), primary={"SEQROW0": 60})
    with fits.open(second, memmap=False) as hdus:
        assert hdus[3].data[-1, -1] == 7 * 60
    joined = np.concatenate([read_amplifier(path, 3).pixels_adu for path in (first, second)])
    np.testing.assert_array_equal(joined, coded(0, 100, 3072))
    assert read_frame_info(second).readouts[3].seconds(0) == 60 / 300


def test_to_read_order_is_its_own_inverse():
    image = np.arange(12).reshape(3, 4)
    for layout in load_profile("ztf").quadrants:
        np.testing.assert_array_equal(to_read_order(to_read_order(image, layout), layout), image)


def test_three_formats_agree_to_the_bit(write_frame):
    frames = [read_amplifier(write_frame(f"fake{suffix}"), 2) for suffix in SUFFIXES]
    for other in frames[1:]:
        np.testing.assert_array_equal(other.pixels_adu, frames[0].pixels_adu)
        np.testing.assert_array_equal(other.overscan_adu, frames[0].overscan_adu)
        assert other.readout == frames[0].readout


def test_integers_of_32_bits_are_kept(write_frame):
    image = coded(0, 20, 3072).astype(np.int32) + 100_000
    np.testing.assert_array_equal(read_amplifier(write_frame(data=[image] * 4), 1).pixels_adu, image)


def test_headers_become_the_readout(write_frame):
    info = read_frame_info(write_frame(primary={"NTRANSIT": 3000, "SEEING": 1.5, "SEQROW0": 12}))
    readout = info.readouts[4]
    assert (info.n_rows, sorted(info.readouts), dict(info.skipped)) == (20, [1, 2, 3, 4], {})
    assert (readout.row_rate_hz, readout.n_transit, readout.first_row, readout.ccd) == (300.0, 3000, 12, 1)
    assert (readout.seeing_arcsec, readout.pixel_scale_arcsec, readout.band) == (1.5, 1.012, "r")
    assert (readout.sequence, readout.zero_point_mag, readout.supplied) == ("fake", 24.49, ())


def test_pixels_of_a_frame_are_counted_over_its_readable_quadrants(write_frame):
    info = read_frame_info(write_frame())
    assert (info.n_y, info.n_columns, info.n_pixels) == (1, 3072, 4 * 20 * 3072)


def test_silent_headers_take_defaults_or_stay_unknown(write_frame):
    path = write_frame(primary={"SHUTOPEN": None, "SEQROW0": None, "SEQID": None}, amplifiers=[{"GAIN": None}] * 4)
    readout = read_frame_info(path).readouts[1]
    assert (readout.n_transit, readout.gain_e_per_adu) == (3080, 6.2)
    assert (readout.first_row, readout.shutter_open_utc, readout.sequence) == (None, None, "fake")


def test_supplied_values_win_and_are_recorded(write_frame):
    path = write_frame(primary={"ROWRATE": None})
    with pytest.raises(FrameError, match=r"ROWRATE is missing and has no default; give it with --set ROWRATE=VALUE"):
        read_frame_info(path)
    readout = read_amplifier(path, 1, supplied={"ROWRATE": "250"}).readout
    assert (readout.row_rate_hz, readout.supplied) == (250.0, (("ROWRATE", "250"),))


def test_supplied_keyword_that_the_profile_does_not_read_is_refused(write_frame):
    with pytest.raises(FrameError, match=r"--set ROWRAT: profile ztf has no such keyword; it reads .*'ROWRATE'"):
        read_frame_info(write_frame(), supplied={"ROWRAT": "300"})


@pytest.mark.parametrize("value", [0, -300.0, "fast", "nan", "inf"])
def test_row_rates_that_are_no_rates(write_frame, value):
    with pytest.raises(
        FrameError, match=r"ROWRATE = .* is not a (positive finite )?number; correct it with --set ROWRATE"
    ):
        read_frame_info(write_frame(primary={"ROWRATE": value}))


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ({"NTRANSIT": 3080.5}, r"NTRANSIT = 3080\.5 is not a positive whole number"),
        ({"NTRANSIT": "nan"}, r"NTRANSIT = 'nan' is not a"),
        ({"SEQROW0": -5}, r"SEQROW0 = -5 is negative"),
    ],
)
def test_wrong_header_values_are_refused(write_frame, primary, message):
    with pytest.raises(FrameError, match=message):
        read_frame_info(write_frame(primary=primary))


@pytest.mark.parametrize("start", [0, 1])
def test_amp_id_may_count_from_0_or_1(write_frame, start):
    path = write_frame(amplifiers=[{"AMP_ID": start + number} for number in range(4)])
    assert sorted(read_frame_info(path).readouts) == [1, 2, 3, 4]


def test_contradicting_amp_id_is_warned_of_and_the_order_used(write_frame):
    path = write_frame(amplifiers=[{"AMP_ID": number} for number in (1, 2, 7, 4)])
    with pytest.warns(UserWarning, match=r"AMP_ID = 7 in the HDU of quadrant 3; the order of the HDUs is used"):
        info = read_frame_info(path)
    assert info.readouts[3].quadrant == 3


def test_amp_id_that_is_no_number_is_warned_of(write_frame):
    path = write_frame(amplifiers=[{"AMP_ID": name} for name in ("1", "2", "C", "4")])
    with pytest.warns(UserWarning, match=r"AMP_ID = C in the HDU of quadrant 3"):
        assert sorted(read_frame_info(path).readouts) == [1, 2, 3, 4]


def test_no_rows_at_all(write_frame):
    path = write_frame(data=[np.zeros((0, 3072), np.int16)] * 4)
    with pytest.raises(FrameError, match=r"quadrant 1 has no rows"):
        read_frame_info(path)


def test_missing_overscan_skips_that_quadrant_only(write_frame):
    path = write_frame()
    with fits.open(path, memmap=False) as hdus:
        fits.HDUList(hdus[:8]).writeto(path.with_name("short.fits"))
    info = read_frame_info(path.with_name("short.fits"))
    assert sorted(info.readouts) == [1, 2, 3]
    assert "quadrant 4 has no overscan HDU 8" in info.skipped[4]
    assert read_amplifier(info.path, 3).pixels_adu.shape == (20, 3072)
    with pytest.raises(FrameError, match=r"quadrant 4 has no overscan HDU 8"):
        read_amplifier(info.path, 4)


def test_only_a_primary_header(tmp_path):
    path = tmp_path / "empty.fits"
    fits.PrimaryHDU(header=fits.Header([("CCD_ID", 1), ("ROWRATE", 300.0)])).writeto(path)
    with pytest.raises(FrameError, match=r"quadrant 1 has no data HDU 1 \(the file has 1 HDUs"):
        read_frame_info(path)


def test_unequal_rows(write_frame):
    images = [coded(0, 20, 3072)] * 3 + [coded(0, 19, 3072)]
    with pytest.raises(FrameError, match=r"quadrants differ in length \(rows by quadrant: \{1: 20, .*4: 19\}\)"):
        read_frame_info(write_frame(data=images))
    path = write_frame("overscan.fits", overscan=[np.zeros((18, 30), np.uint16)] * 4)
    with pytest.raises(FrameError, match=r"quadrant 1 has 20 data rows but 18 overscan rows"):
        read_frame_info(path)


def test_wrong_number_of_columns(write_frame):
    with pytest.raises(
        FrameError, match=r"data HDU 1 of quadrant 1 has shape \(20, 100\), profile ztf expects \(rows, 3072\)"
    ):
        read_frame_info(write_frame(data=[coded(0, 20, 100)] * 4))


def test_no_such_quadrant(write_frame):
    with pytest.raises(FrameError, match=r"quadrant 5 is not one of 1\.\.4 of ztf"):
        read_amplifier(write_frame(), 5)


def test_nan_pixels_are_counted_and_the_amplifier_refused(write_frame):
    image = coded(0, 20, 3072).astype(np.float32)
    image[3, 5:8] = np.nan
    with pytest.raises(FrameError, match=r"quadrant 1: 3 of 61440 pixels are NaN or infinite"):
        read_amplifier(write_frame(data=[image] * 4), 1)


def test_constant_amplifier_is_refused_and_constant_overscan_is_not(write_frame):
    dead = np.full((20, 3072), 100, np.uint16)
    path = write_frame(data=[dead, coded(0, 20, 3072), dead, dead], overscan=[np.full((20, 30), 9, np.uint16)] * 4)
    with pytest.raises(FrameError, match=r"quadrant 1: all pixels equal 100"):
        read_amplifier(path, 1)
    assert read_amplifier(path, 2).overscan_adu.max() == 9


def test_files_that_are_no_frames(tmp_path):
    for name, content, message in (
        ("empty.fits", b"", r"is empty \(0 bytes\)"),
        ("text.fits", b"SIMPLE is not what this is\n" * 300, r"is not a complete FITS file"),
        ("text.fits.gz", b"not gzip" * 500, r"is not a complete FITS file"),
        ("frame.png", b"x", r"does not end in one of \.fits, \.fits\.gz, \.fits\.fz"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FrameError, match=message):
            read_frame_info(path)
    with pytest.raises(FrameError, match=r"absent\.fits does not exist"):
        read_frame_info(tmp_path / "absent.fits")
    (tmp_path / "folder.fits").mkdir()
    with pytest.raises(FrameError, match=r"folder\.fits is not a file"):
        read_frame_info(tmp_path / "folder.fits")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.15, 0.5, 0.85, 0.97])
def test_truncated_files_are_never_read_as_whole(write_frame, suffix, kept):
    path = write_frame(f"cut{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    for quadrant in (1, 2, 3, 4):
        with pytest.raises(FrameError, match=r"is not a complete FITS file|has no (data|overscan) HDU"):
            read_amplifier(path, quadrant)


def test_file_ends_where_its_last_pixel_ends(write_frame):
    path = write_frame()
    content, whole = path.read_bytes(), read_amplifier(path, 4)
    end = len(content) - -(20 * 30 * 2) % 2880  # what follows the 20 rows of 30 overscan columns is padding
    path.write_bytes(content[:end])
    np.testing.assert_array_equal(read_amplifier(path, 4).overscan_adu, whole.overscan_adu)
    path.write_bytes(content[: end - 1])
    with pytest.raises(
        FrameError, match=r"truncated: HDU 8 needs 1,200 bytes of data, the file ends 1 bytes too early"
    ):
        read_amplifier(path, 4)


def test_truncation_at_a_block_boundary_is_seen(write_frame):
    path = write_frame()
    content = path.read_bytes()
    path.write_bytes(content[:-2880])
    with pytest.raises(FrameError, match=r"is not a complete FITS file"):
        read_frame_info(path)


def test_damaged_gzip_stream_is_an_error(write_frame):
    path = write_frame("damaged.fits.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"is not a complete FITS file"):
        read_amplifier(path, 1)


def test_unrecognised_file_and_a_users_profile(tmp_path, tiny_profile):
    image = coded(0, 12, 64)
    header = fits.Header(
        [("TINYCAM", True), ("CHIP", 2), ("CLOCK", 100.0), ("ROW0", 10), ("TOPEN", "2026-01-01T00:00:00")]
    )
    path = tmp_path / "mine.fits"
    hdus = [fits.ImageHDU(image), fits.ImageHDU(image[::-1, ::-1])] + [fits.ImageHDU(coded(0, 12, 30))] * 2
    fits.HDUList([fits.PrimaryHDU(header=header), *hdus]).writeto(path)
    with pytest.raises(ProfileError, match=r"mine\.fits: no built-in instrument profile recognises"):
        read_frame_info(path)
    frame = read_amplifier(path, 2, instrument=tiny_profile)
    np.testing.assert_array_equal(frame.pixels_adu, image)
    assert (frame.readout.ccd, frame.readout.n_transit, frame.readout.gain_e_per_adu) == (2, 50, 2.0)
    assert list(frame.readout.read_utc(90)) == ["2026-01-01T00:00:01.000000"]
    with pytest.raises(FrameError, match=r"--set ROWRATE: profile tiny has no such keyword; it reads .*'CLOCK'"):
        read_frame_info(path, instrument=tiny_profile, supplied={"ROWRATE": "300"})


def test_image_cubes_are_refused_where_frames_are_needed(tmp_path):
    kepler = write_kepler(tmp_path / "k.fits", star_images(4))
    plain = write_plain(tmp_path / "c.fits", star_images(4))
    message = r"k\.fits is an image cube \(profile kepler\); this command needs continuous-readout frames"
    with pytest.raises(FrameError, match=message):
        read_frame_info(kepler)
    with pytest.raises(FrameError, match=r"c\.fits is an image cube \(profile cube\)"):
        read_amplifier(plain, 1)
    with pytest.raises(FrameError, match=r"is an image cube \(profile tess\)"):
        read_frame_info(plain, instrument="tess")


def test_header_cards_that_say_nothing_are_silent(write_frame):
    path = write_frame(primary={"FILTER": "", "SEQID": "  ", "SEEING": fits.card.UNDEFINED})
    readout = read_frame_info(path).readouts[1]
    assert (readout.band, readout.sequence, readout.seeing_arcsec) == ("", "fake", 2.0)


def test_reading_leaves_no_warning(write_frame):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in SUFFIXES:
            assert read_amplifier(write_frame(f"quiet{suffix}"), 1).pixels_adu.shape == (20, 3072)


@pytest.mark.parametrize(
    ("name", "stem"), [("a.fits", "a"), ("a/b_c01.fits.fz", "b_c01"), ("a.fits.gz", "a"), ("a.b.fits", "a.b")]
)
def test_frame_stem(name, stem):
    assert frame_stem(name) == stem


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("quadrant", [1, 2, 3, 4])
def test_rows_read_a_segment_at_a_time_are_those_of_the_amplifier(write_frame, suffix, quadrant):
    path = write_frame(f"fake{suffix}")
    frame = read_amplifier(path, quadrant)
    with open_amplifier_rows(path, quadrant) as rows:
        assert (rows.n_rows, rows.path, rows.readout, rows.profile) == (20, path, frame.readout, frame.profile)
        for start, stop in ((0, 20), (13, 20), (0, 1), (5, 12), (19, 20)):
            pixels = np.zeros((stop - start, 3072), rows.pixels.dtype)
            overscan = rows.read(start, pixels)
            np.testing.assert_array_equal(pixels, frame.pixels_adu[start:stop])
            np.testing.assert_array_equal(overscan, frame.overscan_adu[start:stop])
            assert overscan.dtype == frame.overscan_adu.dtype


def test_nan_is_an_error_of_the_rows_that_hold_it(write_frame):
    image, overscan = coded(0, 20, 3072).astype(np.float32), coded(0, 20, 30).astype(np.float32)
    image[3, 5:8], overscan[15, 0] = np.nan, np.inf
    path = write_frame(data=[image] * 4, overscan=[overscan] * 4)
    pixels = np.empty((10, 3072), np.float32)
    with open_amplifier_rows(path, 1) as rows:
        rows.read(4, pixels)
        np.testing.assert_array_equal(pixels, image[4:14])
        with pytest.raises(FrameError, match=r": quadrant 1: 3 of 30720 pixels are NaN or infinite"):
            rows.read(0, pixels)
        with pytest.raises(FrameError, match=r"overscan of quadrant 1: 1 of 300 pixels are NaN or infinite"):
            rows.read(10, pixels)


def test_no_such_quadrant_to_open(write_frame):
    for quadrant in (0, 5):
        message = rf"quadrant {quadrant} is not one of 1\.\.4 of ztf"
        with pytest.raises(FrameError, match=message), open_amplifier_rows(write_frame(), quadrant):
            pass


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2"])
def test_tiles_that_hold_something_else(write_frame, compression):
    """Zeros instead of the last third of a quadrant's tiles: its first rows can still be read."""
    path = write_frame("fake.fits.fz")
    with fits.open(path, memmap=False) as hdus:
        images = [
            fits.CompImageHDU(hdu.data, header=hdu.header, compression_type=compression) for hdu in list(hdus)[1:]
        ]
        fits.HDUList([hdus[0], *images]).writeto(path, overwrite=True)
    with fits.open(path, disable_image_compression=True) as hdus:
        header = hdus[1].header
        start = hdus[1].fileinfo()["datLoc"] + header["NAXIS1"] * header["NAXIS2"]
        stop, n_bytes = start + header["PCOUNT"], header["PCOUNT"] // 3
    content = path.read_bytes()
    path.write_bytes(content[: stop - n_bytes] + bytes(n_bytes) + content[stop:])
    good, rest = np.empty((12, 3072), np.uint16), np.empty((8, 3072), np.uint16)
    with pytest.raises(FrameError, match=r"fake\.fits\.fz"), open_amplifier_rows(path, 1) as rows:  # noqa: PT012
        rows.read(0, good)
        rows.read(12, rest)
    assert good.min() >= 100
    assert read_amplifier(path, 2).pixels_adu.shape == (20, 3072)


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
def test_floats_of_a_file_that_shrinks_while_it_is_open(write_frame, suffix):
    image = np.random.default_rng(1).normal(100, 5, (200, 3072)).astype(np.float32)
    path = write_frame(f"fake{suffix}", data=[image] * 4)
    pixels = np.empty((100, 3072), np.float32)
    with pytest.raises(FrameError, match=r"fake\.fits"), open_amplifier_rows(path, 4) as rows:  # noqa: PT012
        os.truncate(path, path.stat().st_size // 2)
        rows.read(100, pixels)


def test_amplifiers_of_one_gzip_file_are_unpacked_once(write_frame, monkeypatch):
    unpacked = []
    gunzip = gzip.open

    def count(path, *arguments, **named):
        unpacked.append(path.name)
        return gunzip(path, *arguments, **named)

    first, second = write_frame("first.fits.gz"), write_frame("second.fits.gz", data=raw_quadrants(5, 20))
    monkeypatch.setattr(gzip, "open", count)
    images = [read_amplifier(first, quadrant).pixels_adu for quadrant in (1, 2, 3)]
    assert unpacked == ["first.fits.gz"]
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(read_amplifier(second, 1).pixels_adu, coded(5, 20, 3072))
    np.testing.assert_array_equal(read_amplifier(first, 1).pixels_adu, images[0])
    assert unpacked == ["first.fits.gz", "second.fits.gz", "first.fits.gz"]


def test_gzip_file_that_changed_is_unpacked_again(write_frame):
    for first_row in (0, 3, 9):
        path = write_frame("fake.fits.gz", data=raw_quadrants(first_row, 20))
        np.testing.assert_array_equal(read_amplifier(path, 2).pixels_adu, coded(first_row, 20, 3072))


def test_data_are_summed_once_by_a_process_until_the_file_changes(write_frame, monkeypatch):
    path = write_frame("fake.fits")
    with fits.open(path, mode="update", checksum=True):
        pass
    summed = []
    damage = StoredHdu.damage

    def count(hdu, stream):
        summed.append(hdu.start)
        return damage(hdu, stream)

    monkeypatch.setattr(StoredHdu, "damage", count)
    for _ in range(3):
        with open_amplifier_rows(path, 1) as rows:
            assert rows.notes == ()
    assert len(summed) == len(set(summed)) == 2  # pixels and overscan
    content = bytearray(path.read_bytes())
    content[summed[0]] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with open_amplifier_rows(path, 1) as rows:
        assert "quadrant 1: HDU 1: DATASUM" in rows.notes[0]


def test_two_gzip_files_open_at_a_time(write_frame):
    paths = [write_frame(f"{row}.fits.gz", data=raw_quadrants(row, 20)) for row in (0, 7)]
    pixels = np.empty((20, 3072), np.uint16)
    with open_amplifier_rows(paths[0], 3) as first, open_amplifier_rows(paths[1], 3) as second:
        for rows, row in ((first, 0), (second, 7), (first, 0)):
            rows.read(0, pixels)
            np.testing.assert_array_equal(pixels, coded(row, 20, 3072))


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (3, 0), (4, 7)])
def test_one_pixel_that_differs_is_enough(place):
    pixels = np.full((5, 8), 100, np.uint16)
    pixels[place] = 101
    check_varies(pixels, "here")


@pytest.mark.parametrize("shape", [(5, 8), (1, 8), (1, 1)])
def test_one_value_is_no_image(shape):
    with pytest.raises(FrameError, match=r"here: all pixels equal 100; the amplifier is skipped"):
        check_varies(np.full(shape, 100, np.uint16), "here")
