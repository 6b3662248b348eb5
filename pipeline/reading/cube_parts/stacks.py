"""Join single images, of many files or of many HDUs of one, into one image cube with a table of their times."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.time import Time

from shutterless.pipeline.files import written_whole
from shutterless.pipeline.reading.cube_parts.images import is_light
from shutterless.pipeline.reading.cube_parts.time_columns import straighten_times
from shutterless.pipeline.reading.cube_parts.times import find_start
from shutterless.pipeline.reading.fits_files import FrameError, HeaderValues, frame_stem, open_fits
from shutterless.pipeline.reading.headers.structure import BLOCK
from shutterless.pipeline.reading.instruments import load_profile

# what belongs to one image or one HDU alone
_OWN = (
    *("SIMPLE", "XTENSION", "BITPIX", "EXTEND", "PCOUNT", "GCOUNT", "BSCALE", "BZERO", "BLANK", "EXTNAME", "EXTVER"),
    *("CHECKSUM", "DATASUM", "TIMESYS", "GROUPS", "INHERIT", "END", "COMMENT", "HISTORY", ""),
)
_TIMED = ("DATE", "MJD", "JD", "UT", "TIME-", "GPS", "NAXIS", "Z")
_KEPT_WHOLE = {np.dtype("u1"): (8, 0), np.dtype("i2"): (16, 0), np.dtype("u2"): (16, 1 << 15)}
_FINGERPRINT = "STACKID"


@dataclass(frozen=True)
class SingleImage:
    """One image: where it is, its size, the type of its numbers, and when its exposure began."""

    path: Path
    hdu: int
    shape: tuple[int, int]
    kind: np.dtype[Any]
    start: Time | None
    live_s: float
    header: fits.Header


@dataclass(frozen=True)
class ImageStack:
    """Images in the order of their times, those times, what was done, and files that cannot be read with the reason.

    ``seconds`` are those of the middle of each exposure since the first began; None if no image has a time.
    """

    images: tuple[SingleImage, ...]
    seconds: np.ndarray | None
    notes: tuple[str, ...]
    failures: tuple[tuple[Path, str], ...]

    @property
    def name(self) -> str:
        """Name of the joined file."""
        return f"{frame_stem(self.images[0].path)}_stack.fits"


def plan_stack(paths: Sequence[Path], supplied: Mapping[str, str]) -> ImageStack:
    """Find the images of some files and put them into the order of their times.

    Parameters
    ----------
    paths : sequence of Path
        Files with one image or several; those that cannot be read are left out and listed.
    supplied : mapping of str to str
        Header values given by the user.

    Raises
    ------
    FrameError
        If there are fewer than two images, or they differ in size.
    """
    images: list[SingleImage] = []
    failures = []
    for path in paths:
        try:
            images += _find_images(path, supplied)
        except FrameError as error:
            failures.append((path, f"FrameError: {error}"))
    if len(images) < 2:
        why = f"; {failures[0][1]}" if failures else ""
        raise FrameError(f"{paths[0]}: a stack needs at least two images (y, x), there are {len(images)}{why}")
    sizes: dict[tuple[int, int], Path] = {}
    for image in images:
        sizes.setdefault(image.shape, image.path)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise FrameError(
            f"{first} has an image {one}, {second} one of {other}: one stack needs images of one size; give those of "
            "each size to a command of their own"
        )
    notes = [f"{len(images):,} images of {len({image.path for image in images}):,} files are one cube"]
    starts = [image.start.tai for image in images if image.start is not None]
    if len(starts) < len(images) or min(starts) == max(starts):
        notes.append("not every image has a time of its own: their order is that of names and HDUs")
        return ImageStack(tuple(images), None, tuple(notes), tuple(failures))
    seconds = np.asarray((Time(starts) - min(starts)).to_value("s"))
    order = np.argsort(seconds, kind="stable")
    if (np.diff(order) < 0).any():
        notes.append("images are put into the order of their times")
    seconds, lines = straighten_times(seconds[order])
    ordered = tuple(images[k] for k in order)
    return ImageStack(ordered, seconds + ordered[0].live_s / 2, (*notes, *lines), tuple(failures))


def write_stack(stack: ImageStack, folder: Path, *, with_pixels: bool = True) -> tuple[Path, list[tuple[Path, str]]]:
    """Write the images as one cube; a file of the same images that is there already is kept.

    An image whose pixels cannot be read is one of zeros, which no search takes for light.

    Parameters
    ----------
    stack : ImageStack
    folder : Path
    with_pixels : bool
        Without them the file has its headers and times alone, and zeros that take no room on the disk.

    Returns
    -------
    path : Path
        ``folder/NAME_stack.fits``: the cube, and a table with time, file and HDU of every image.
    failures : list of (Path, str)
        Files whose pixels cannot be read, with the reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures: list[tuple[Path, str]] = []
    target = folder / stack.name
    fingerprint = _fingerprint(stack)
    if with_pixels and target.exists() and fits.getheader(target).get(_FINGERPRINT) == fingerprint:
        return target, failures
    kinds = {image.kind for image in stack.images}
    kind = kinds.pop() if len(kinds) == 1 else np.dtype("f4")
    bits, zero = _KEPT_WHOLE.get(kind, (-32, 0))
    header = _joined_header(stack, bits, zero)
    header[_FINGERPRINT] = fingerprint
    with written_whole(target) as partial:
        with partial.open("wb") as file:
            file.write(header.tostring().encode("ascii"))
            start = file.tell()
            n_bytes = len(stack.images) * int(np.prod(stack.images[0].shape)) * abs(bits) // 8
            if with_pixels:
                failures = _write_pixels(stack, file, bits, zero)
            file.truncate(start + n_bytes + -n_bytes % BLOCK)
        with fits.open(partial, mode="append", memmap=False) as hdus:
            hdus.append(_time_table(stack))
    return target, failures


def _find_images(path: Path, supplied: Mapping[str, str]) -> list[SingleImage]:
    with open_fits(path) as hdus:
        found = [(k, hdu) for k, hdu in enumerate(hdus) if hdu.is_image and _plane(hdu.shape) and is_light(hdu)]
        if not found:
            raise FrameError(f"{path}: no HDU is an image (y, x)")
        # in a file of several images the first header holds what they share, and the start of the first of them
        shared = hdus[0].header
        images = []
        for number, hdu in found:
            headers = (hdu.header, shared) if len(found) == 1 else (hdu.header,)
            images.append(_describe(path, number, hdu, headers, shared, supplied))
        if len(found) > 1 and all(image.start is None for image in images):
            number, hdu = found[0]
            images[0] = _describe(path, number, hdu, (hdu.header, shared), shared, supplied)
    return images


def _describe(
    path: Path,
    number: int,
    hdu: Any,
    headers: tuple[fits.Header, ...],
    shared: fits.Header,
    supplied: Mapping[str, str],
) -> SingleImage:
    """One image, with the time that ``headers`` give it."""
    values = HeaderValues(path, load_profile("cube"), supplied, headers)
    live_s = values.number("exposure_s") or 0.0
    start = find_start(values, is_barycentric=False, span_s=live_s, live_s=live_s).moment
    header = shared.copy()
    header.update(hdu.header)
    n_y, n_x = _plane(hdu.shape)
    return SingleImage(path, number, (n_y, n_x), _stored_kind(hdu.header), start, live_s, header)


def _stored_kind(header: fits.Header) -> np.dtype[Any]:
    """Type that holds the numbers of an image exactly, or floats."""
    bits, zero = header["BITPIX"], header.get("BZERO", 0)
    if header.get("BSCALE", 1) != 1 or "BLANK" in header or zero not in (0, 1 << 15):
        return np.dtype("f4")
    if zero:
        return np.dtype("u2" if bits == 16 else "f4")
    return np.dtype({8: "u1", 16: "i2"}.get(bits, "f4"))


def _plane(shape: Sequence[int]) -> tuple[int, ...]:
    """Height and width of an image, () if it has none or more axes."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape) if len(shape) == 2 and min(shape) > 0 else ()


def _joined_header(stack: ImageStack, bits: int, zero: int) -> fits.Header:
    n_y, n_x = stack.images[0].shape
    header = fits.Header([("SIMPLE", True), ("BITPIX", bits), ("NAXIS", 3), ("NAXIS1", n_x), ("NAXIS2", n_y)])
    header["NAXIS3"] = len(stack.images)
    header["EXTEND"] = True
    if zero:
        header["BZERO"], header["BSCALE"] = float(zero), 1.0
    for card in stack.images[0].header.cards:
        if card.keyword not in _OWN and not card.keyword.startswith(_TIMED):
            header.append(card, end=True)
    first = stack.images[0].start
    if first is not None:
        header["DATE-OBS"] = str(Time(first.utc, format="isot", precision=6).value)
        header["TIMESYS"] = "UTC"
    return header


def _write_pixels(stack: ImageStack, file: IO[bytes], bits: int, zero: int) -> list[tuple[Path, str]]:
    wanted = np.dtype({8: "u1", 16: ">i2", -32: ">f4"}[bits])
    failures: dict[Path, str] = {}
    numbers: dict[Path, list[int]] = {}
    for image in stack.images:
        numbers.setdefault(image.path, []).append(image.hdu)
    path, pixels = None, dict[int, np.ndarray]()
    for image in stack.images:
        if image.path != path:
            path = image.path
            try:
                pixels = _read_images(path, numbers[path])
            except FrameError as error:
                failures[path], pixels = f"FrameError: {error}", {}
        plane = pixels.get(image.hdu, np.zeros(image.shape))
        file.write((plane.astype(np.int32) - zero if zero else plane).astype(wanted).tobytes())
    return list(failures.items())


def _read_images(path: Path, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    with open_fits(path) as hdus:
        return {number: np.asarray(hdus[number].data).reshape(hdus[number].shape[-2:]) for number in numbers}


def _time_table(stack: ImageStack) -> fits.BinTableHDU:
    names = [image.path.name for image in stack.images]
    width = max(len(name.encode()) for name in names)
    columns = [
        fits.Column("FILE", f"{width}A", array=np.array([name.encode("ascii", "replace") for name in names])),
        fits.Column("HDU", "J", array=np.array([image.hdu for image in stack.images])),
    ]
    if stack.seconds is not None:
        columns.insert(0, fits.Column("TIME", "D", unit="s", array=stack.seconds))
    return fits.BinTableHDU.from_columns(columns, name="IMAGES")


def _fingerprint(stack: ImageStack) -> str:
    """Hash of the files, their sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for path in dict.fromkeys(image.path for image in stack.images):
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    digest.update(f"{[image.hdu for image in stack.images]} {stack.seconds}".encode())
    return digest.hexdigest()
