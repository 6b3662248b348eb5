"""Open FITS files, turn any damage into an error, and find header values by a profile."""

from __future__ import annotations

import atexit
import gzip
import os
import tempfile
import threading
import warnings
import zlib
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from erfa import ErfaWarning

from shutterless.pipeline.reading.headers.structure import (
    FileStructure,
    StoredHdu,
    read_first_header,
    read_structure,
    show_mended,
)
from shutterless.pipeline.reading.headers.tiles import check_tiles
from shutterless.pipeline.reading.instruments import (
    CubeProfile,
    InstrumentProfile,
    Profile,
    ProfileError,
    load_profile,
    recognise_profile,
)

FRAME_SUFFIXES = (".fits", ".fits.gz", ".fits.fz")
_ENDINGS = (".fits", ".fit", ".fts")
ALL_SUFFIXES = (*FRAME_SUFFIXES, ".fit", ".fts", ".fz", ".gz")  # in any case; the first bytes decide what a file is
_BYTES_AT_ONCE = 1 << 20
_GZIP = b"\x1f\x8b"
_OTHER_PACKERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x9d": "compress",
}
# a gzip file that unpacks to more than this many times its size is no sky, and fills the disk
MOST_UNPACKED, ALWAYS_UNPACKED = 200, 1 << 28


class FrameError(ValueError):
    """A file or amplifier that does not match its profile or cannot be read."""


class TemporarySpaceError(FrameError):
    """There is no disk space to unpack a file."""


@dataclass(frozen=True)
class HeaderValues:
    """Values of a profile's keywords: given by the user, else from the headers, else the profile's default.

    Parameters
    ----------
    path : Path
        Named in errors.
    profile : Profile
    supplied : mapping of str to str
        By keyword, as given with ``--set``.
    headers : tuple of fits.Header
        The first one with a keyword gives its value.
    """

    path: Path
    profile: Profile
    supplied: Mapping[str, str]
    headers: tuple[fits.Header, ...]

    def read(self, keyword: str | None) -> Any:
        """Value of a header keyword, None if there is none."""
        for source in (self.supplied, *self.headers):
            if keyword is not None and keyword in source and not _is_blank(value := source[keyword]):
                return value
        return None

    def find(self, name: str) -> Any:
        """Value of one of the profile's names, None if there is neither value nor default."""
        found = self.read(self.profile.keywords.get(name))
        return self.profile.defaults.get(name) if found is None else found

    def keyword(self, name: str) -> str:
        """Header keyword of one of the profile's names, or the name itself."""
        return self.profile.keywords.get(name, name)

    def number(self, name: str, kind: type = float, *, positive: bool = True) -> Any:
        """Finite number of one of the profile's names, None if unknown.

        Raises
        ------
        FrameError
            If the value is not such a number.
        """
        return self.parse(self.keyword(name), self.find(name), kind, positive=positive)

    def parse(self, keyword: str, value: Any, kind: type = float, *, positive: bool = True) -> Any:
        """Value of a keyword as a number; None stays None."""
        if value is None:
            return None
        try:
            parsed = kind(float(value))
            exact = kind is float or parsed == float(value)
        except (TypeError, ValueError, OverflowError):
            raise FrameError(
                f"{self.path}: {keyword} = {value!r} is not a number; correct it with --set {keyword}=VALUE"
            ) from None
        if not np.isfinite(parsed) or not exact or (positive and parsed <= 0):
            wanted = ("a positive " if positive else "a ") + ("whole number" if kind is int else "finite number")
            raise FrameError(
                f"{self.path}: {keyword} = {value!r} is not {wanted}; correct it with --set {keyword}=VALUE"
            )
        return parsed

    def missing(self, name: str) -> FrameError:
        """Error for a required value that is missing."""
        keyword = self.keyword(name)
        return FrameError(f"{self.path}: {keyword} is missing and has no default; give it with --set {keyword}=VALUE")

    @property
    def sorted_supplied(self) -> tuple[tuple[str, str], ...]:
        """Values given by the user, in the form that is recorded with results."""
        return tuple(sorted((key, str(value)) for key, value in self.supplied.items()))


def _is_blank(value: Any) -> bool:
    """Whether a header card has no value (``KEY =`` or an empty string)."""
    return value is None or isinstance(value, fits.card.Undefined) or str(value).strip() == ""


def frame_stem(path: str | Path) -> str:
    """File name without the FITS ending, in whichever case it is written."""
    name = Path(path).name
    for packed in ("", ".gz", ".fz", ".fz.gz"):
        for ending in _ENDINGS:
            if name.lower().endswith(ending + packed):
                return name[: -len(ending + packed)]
    return name


def has_fits_name(path: str | Path) -> bool:
    """Whether a file has one of the endings of FITS files, in whichever case."""
    return Path(path).name.lower().endswith(ALL_SUFFIXES)


def choose_profile(
    path: Path, header: fits.Header, instrument: str | None, supplied: Mapping[str, str]
) -> InstrumentProfile | CubeProfile:
    """Choose the profile that the user names, else the one that recognises the primary header and supplied values.

    Raises
    ------
    ProfileError
        If there is none.
    """
    if instrument:
        return load_profile(instrument)
    try:
        return recognise_profile(ChainMap(dict(supplied), header))  # reads the cards that are asked for alone
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def check_supplied(supplied: Mapping[str, str], profile: Profile) -> None:
    """Refuse header values given by the user for keywords that the profile does not read.

    Raises
    ------
    FrameError
        Names the keywords that it reads.
    """
    known = profile.header_keywords
    for key in supplied:
        if key not in known:
            raise FrameError(f"--set {key}: profile {profile.name} has no such keyword; it reads {list(known)}")


def read_primary_header(path: str | Path) -> fits.Header:
    """Read the primary header alone; the rest of the file is neither read nor checked.

    Raises
    ------
    FrameError
        If the file does not begin like a FITS file.
    """
    path = Path(path)
    with _clear_errors(path), _open_packed(path) as stream:
        return fits.Header.fromstring(read_first_header(stream).decode("ascii"))


def image_shapes(path: str | Path) -> list[tuple[int, ...]]:
    """Shapes of the images of a file by its headers, compressed ones too; HDUs without an image have none.

    Raises
    ------
    FrameError
        If the file is damaged.
    """
    path = Path(path)
    with _clear_errors(path), _open_stream(path) as (_, structure):
        return [hdu.image_shape for hdu in structure.hdus if hdu.image_shape]


def find_damage(path: Path) -> tuple[str, ...]:
    """HDUs whose data do not agree with their checksum, and what stands behind the last HDU, in words."""
    with _clear_errors(path), _open_whole(path) as stream:
        structure = read_structure(stream)
        damages = [(k, hdu.damage(stream)) for k, hdu in enumerate(structure.hdus)]
    return (*structure.notes, *(f"HDU {k}: {damage}" for k, damage in damages if damage))


@contextmanager
def open_fits(path: Path, *, scaled: bool = True) -> Iterator[fits.HDUList]:
    """Open a FITS file, images scaled or as they are stored; any damage raises a `FrameError`."""
    # scaled (BZERO) images cannot be memory-mapped
    # we open the handle, since astropy leaves its own open when it fails half-way
    with (
        _clear_errors(path),
        _open_stream(path) as (stream, _),
        fits.open(stream, memmap=False, lazy_load_hdus=False, do_not_scale_image_data=not scaled) as hdus,
    ):
        yield hdus


@dataclass(frozen=True)
class StoredFile:
    """An open FITS file as stored on disk: headers are found at once, HDUs and images opened on request.

    Parameters
    ----------
    stream : binary file
        Bytes of the file; seekable.
    open_hdus : callable
        Returns the HDUs as stored: compressed images are tables, whose headers astropy reads four times as fast.
    open_images : callable
        Returns the HDUs with compressed images as images.
    structure : FileStructure
        Places of the HDUs in ``stream``.
    identity : tuple
        Path, size and time of change; with another one it is another file.
    """

    stream: IO[bytes]
    open_hdus: Callable[[], fits.HDUList]
    open_images: Callable[[], fits.HDUList]
    structure: FileStructure
    identity: tuple[Path, int, int]

    def damage(self, index: int) -> str:
        """What the checksum of an HDU says against its data, in words; this process sums the data of a file once."""
        return _damage(self.identity, self.structure.hdus[index])

    @property
    def n_hdus(self) -> int:
        """HDUs of the file."""
        return len(self.structure.hdus)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of the image in each HDU; () if it holds none."""
        return [hdu.image_shape for hdu in self.structure.hdus]

    @lru_cache(maxsize=64)  # noqa: B019 - it lives as long as the file is open
    def header(self, index: int) -> fits.Header:
        """Header of an HDU, of which only the cards that are asked for are read."""
        return fits.Header.fromstring(self.structure.hdus[index].header.decode("ascii"))


@contextmanager
def open_stored(path: Path) -> Iterator[StoredFile]:
    """Open a FITS file as `open_fits` does, with its HDUs as stored."""
    with ExitStack() as stack:
        stack.enter_context(_clear_errors(path))
        stream, structure = stack.enter_context(_open_stream(path))

        def open_hdus() -> fits.HDUList:
            return stack.enter_context(
                fits.open(stream, memmap=False, lazy_load_hdus=False, disable_image_compression=True)
            )

        def open_images() -> fits.HDUList:
            # the end of the file has been checked
            own_stream, _ = stack.enter_context(_open_stream(path))
            return stack.enter_context(fits.open(own_stream, memmap=False, lazy_load_hdus=True))

        yield StoredFile(stream, cache(open_hdus), cache(open_images), structure, _identity(path))


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Check a file before it is opened, and turn whatever goes wrong while it is read into a `FrameError`."""
    if not path.exists():
        raise FrameError(f"{path} does not exist")
    if not path.is_file():
        raise FrameError(f"{path} is not a file")
    if not has_fits_name(path):
        raise FrameError(f"{path} does not end in one of {', '.join(ALL_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise FrameError(f"{path} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            for odd in (AstropyWarning, ErfaWarning):  # what matters is checked here
                warnings.simplefilter("ignore", odd)
            yield
    except (FrameError, ProfileError, MemoryError):
        raise
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise FrameError(f"{path} is not a complete FITS file: {reason}") from error
    except Exception as error:  # a header can lead astropy to any of them, and no file may end the work on others
        raise FrameError(f"{path} is not a complete FITS file: {type(error).__name__}: {error}") from error


@contextmanager
def _open_stream(path: Path) -> Iterator[tuple[IO[bytes], FileStructure]]:
    """Bytes of the file with its headers mended, and where its HDUs are."""
    with _open_whole(path) as stream:
        structure = read_structure(stream)
        check_tiles(stream, structure.hdus)
        stream.seek(0)
        yield show_mended(stream, structure), structure


def _open_whole(path: Path) -> IO[bytes]:
    """Bytes of the file; a gzip stream is unpacked whole, since only its end shows whether it is complete."""
    return _open_unpacked(path) if _is_packed(path) else path.open("rb")


def _open_packed(path: Path) -> IO[bytes]:
    """Bytes of the file, unpacked as they are read."""
    return cast(IO[bytes], gzip.open(path)) if _is_packed(path) else path.open("rb")


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path.resolve(), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1024)  # every segment opens its file anew
def _damage(identity: tuple[Path, int, int], hdu: StoredHdu) -> str:
    with _open_whole(identity[0]) as stream:
        return hdu.damage(stream)


def _is_packed(path: Path) -> bool:
    """Whether a file is a gzip file by its first bytes, whatever its name.

    Raises
    ------
    FrameError
        If another program packed it.
    """
    with path.open("rb") as file:
        begin = file.read(8)
    for magic, packer in _OTHER_PACKERS.items():
        if begin.startswith(magic):
            raise FrameError(f"{path} is packed by {packer}; unpack it first, only gzip is read as it is")
    return begin.startswith(_GZIP)


def _open_unpacked(path: Path) -> IO[bytes]:
    """Open the unpacked bytes of a gzip file in an unnamed temporary file, which nothing can leave behind.

    The last one is kept open, since the amplifiers of a file are read one after the other.
    """
    key = _identity(path)
    with _unpacking:
        if key not in _unpacked:
            _forget_unpacked()
            _unpacked[key] = _unpack(path)
        # on Linux this is an independent file object with its own position
        return os.fdopen(os.open(f"/dev/fd/{_unpacked[key].fileno()}", os.O_RDONLY), "rb")


def _unpack(path: Path) -> IO[bytes]:
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
    most = max(MOST_UNPACKED * path.stat().st_size, ALWAYS_UNPACKED)
    try:
        with gzip.open(path) as packed:
            while block := packed.read(_BYTES_AT_ONCE):
                _write_temporary(unpacked, block)
                if unpacked.tell() > most:
                    raise FrameError(f"{path} unpacks to more than {most:,} bytes, {MOST_UNPACKED} times its size")
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _write_temporary(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        # the error is not one of the file that is read, which is not damaged
        raise TemporarySpaceError(
            f"cannot unpack into {tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR to a folder with space"
        ) from error


def _forget_unpacked() -> None:
    while _unpacked:
        _unpacked.popitem()[1].close()


_unpacked: dict[tuple[Path, int, int], IO[bytes]] = {}
_unpacking = threading.Lock()
atexit.register(_forget_unpacked)
