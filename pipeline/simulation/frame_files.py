"""Write frame files block by block of rows, so that a file of any length takes the memory of one block.

A file is whole or absent: images grow in temporary files beside the target, which are joined and renamed at the end.
"""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits

from shutterless.pipeline.reading.instruments import QuadrantLayout

_FITS_BLOCK = 2880
_DESCRIPTORS = np.dtype([("length", ">i8"), ("offset", ">i8")])
_COPIED_TILES = 4096
# pixels and rows that are packed at a time, since a call to astropy takes some milliseconds for any size
_PACKED_PIXELS, _MOST_PACKED_ROWS = 2**22, 4096
# rows of a compressed tile; astropy's overhead per tile is as long as Rice compression of 3,000 pixels
_TILE_ROWS = 16
_LARGEST_32_BIT_HEAP = 2**31 - 1
Spools = Callable[[str], IO[bytes]]


class FrameFileError(ValueError):
    """Images that do not form a frame file."""


class ImageWriter:
    """One image that grows by blocks of rows; made by `FrameFile.add_image`.

    Parameters
    ----------
    header : Header
        Cards besides those that describe the array.
    shape : (int, int)
        Rows and columns of the finished image.
    layout : QuadrantLayout
        How read order becomes the raw orientation of the file.
    open_spool : callable
        Opens a temporary file of a given ending, which the caller closes.
    """

    def __init__(self, header: fits.Header, shape: tuple[int, int], layout: QuadrantLayout, open_spool: Spools) -> None:
        self.header, self.shape, self.layout, self.spool = header, shape, layout, open_spool("pixels")
        self.n_written = 0
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        # tiles begin with the first raw row, so a short tile comes first if rows flip
        self._n_first = shape[0] % _TILE_ROWS if layout.flip_rows else 0
        packed = min(_PACKED_PIXELS // shape[1], _MOST_PACKED_ROWS)
        self._n_packed = max(packed // _TILE_ROWS, 1) * _TILE_ROWS

    def append(self, block: np.ndarray) -> None:
        """Add the next rows in read order, unsigned or signed integers of shape (t, x).

        Raises
        ------
        FrameFileError
            If the block has another width, or more rows than remain in the image.
        """
        n_rows, n_columns = self.shape
        n_taken = self.n_written + self._n_waiting
        if block.ndim != 2 or block.shape[1] != n_columns or n_taken + len(block) > n_rows:
            raise FrameFileError(
                f"a block of shape {block.shape} does not fit behind {n_taken} rows of an image of {self.shape}"
            )
        start = 0
        while start < len(block):
            missing = self._next_pack() - self._n_waiting
            self._waiting.append(block[start : start + missing])
            self._n_waiting += len(self._waiting[-1])
            start += missing
            if self._n_waiting == self._next_pack():
                self._pack()

    def _next_pack(self) -> int:
        """Rows that are packed together next."""
        if self.n_written < self._n_first:
            return self._n_first
        return min(self._n_packed, self.shape[0] - self.n_written)

    def _pack(self) -> None:
        rows, columns = (-1 if flip else 1 for flip in (self.layout.flip_rows, self.layout.flip_columns))
        self._write(np.ascontiguousarray(np.concatenate(self._waiting)[::rows, ::columns]))
        self.n_written += self._n_waiting
        self._waiting, self._n_waiting = [], 0

    def finish(self, target: IO[bytes]) -> None:
        """Append the whole image to a FITS file."""
        if self.n_written != self.shape[0]:
            raise FrameFileError(f"an image of {self.shape[0]} rows was given {self.n_written + self._n_waiting}")
        self._join(target)
        target.write(bytes(-target.tell() % _FITS_BLOCK))

    def _write(self, raw: np.ndarray) -> None:
        raise NotImplementedError

    def _join(self, target: IO[bytes]) -> None:
        raise NotImplementedError


class _PlainImage(ImageWriter):
    """An image HDU. Its size is known from the start, so flipped rows are written directly to their place."""

    _template: fits.Header | None = None

    def _write(self, raw: np.ndarray) -> None:
        header, stored = _stored_image(raw, self.header)
        self._template = self._template or header
        row = self.shape[0] - self.n_written - len(raw) if self.layout.flip_rows else self.n_written
        self.spool.seek(row * stored[0].nbytes)
        self.spool.write(stored.tobytes())

    def _join(self, target: IO[bytes]) -> None:
        assert self._template is not None
        self._template["NAXIS2"] = self.shape[0]
        target.write(self._template.tostring().encode("ascii"))
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, target)


class _TiledImage(ImageWriter):
    """A tile-compressed image: a binary table with one descriptor per tile and all compressed tiles in its heap.

    Notes
    -----
    FITS standard 4.0, section 10.1. Only the order of the descriptors gives the place of a tile in the image, so
    flipped rows need no second pass over the heap.
    """

    def __init__(self, header: fits.Header, shape: tuple[int, int], layout: QuadrantLayout, open_spool: Spools) -> None:
        super().__init__(header, shape, layout, open_spool)
        self.descriptors = open_spool("descriptors")
        self.heap_bytes, self.longest = 0, 0
        self._template: fits.Header | None = None

    @property
    def n_tiles(self) -> int:
        """Tiles of the whole image."""
        return -(-self.shape[0] // _TILE_ROWS)

    def _write(self, raw: np.ndarray) -> None:
        header, descriptors, heap = _compress(raw, self.header)
        self._template = self._template or header
        self.longest = max(self.longest, int(descriptors["length"].max()))
        descriptors["offset"] += self.heap_bytes
        descriptors = descriptors[::-1] if self.layout.flip_rows else descriptors
        self.descriptors.write(descriptors.tobytes())
        self.spool.write(heap)
        self.heap_bytes += len(heap)

    def _join(self, target: IO[bytes]) -> None:
        header, wide = self._template, self.heap_bytes > _LARGEST_32_BIT_HEAP
        assert header is not None
        header["NAXIS1"], header["NAXIS2"] = 16 if wide else 8, self.n_tiles
        header["ZTILE2"], header["ZNAXIS2"] = _TILE_ROWS, self.shape[0]
        header["PCOUNT"], header["TFORM1"] = self.heap_bytes, f"1{'Q' if wide else 'P'}B({self.longest})"
        target.write(header.tostring().encode("ascii"))
        for block in self._ordered_descriptors():
            pairs = np.stack([block["length"], block["offset"]], axis=1)
            target.write(pairs.astype(">i8" if wide else ">i4").tobytes())
        self.spool.seek(0)
        shutil.copyfileobj(self.spool, target)

    def _ordered_descriptors(self) -> Iterator[np.ndarray]:
        """Descriptors of tiles in raw orientation, some thousand at a time."""
        starts = list(range(0, self.n_tiles, _COPIED_TILES))
        for start in reversed(starts) if self.layout.flip_rows else starts:
            self.descriptors.seek(start * _DESCRIPTORS.itemsize)
            block = np.frombuffer(self.descriptors.read(_COPIED_TILES * _DESCRIPTORS.itemsize), _DESCRIPTORS)
            yield block[::-1] if self.layout.flip_rows else block


class FrameFile:
    """A frame file in the making; see `create_frame_file`."""

    def __init__(self, path: Path, folder: Path, stack: ExitStack) -> None:
        self._path, self._folder, self._stack = path, folder, stack
        self._images: dict[int, ImageWriter] = {}

    def add_image(self, hdu: int, header: fits.Header, shape: tuple[int, int], layout: QuadrantLayout) -> ImageWriter:
        """Begin the image of HDU ``hdu`` (from 1); images may grow in any order and side by side."""

        def open_spool(ending: str) -> IO[bytes]:
            return self._stack.enter_context((self._folder / f"hdu{hdu}.{ending}").open("w+b"))

        kind = _TiledImage if self._path.name.endswith(".fz") else _PlainImage
        self._images[hdu] = kind(header, shape, layout, open_spool)
        return self._images[hdu]

    def check_order(self) -> None:
        """Refuse images that do not fill HDUs 1, 2, 3, … without a gap."""
        n_filled = next(n for n in range(len(self._images) + 1) if n + 1 not in self._images)
        loose = sorted(hdu for hdu in self._images if hdu > n_filled)
        if loose:
            raise FrameFileError(
                f"HDUs {loose} do not follow on 1..{n_filled}; frame files are written for quadrants that fill HDUs "
                "1, 2, 3, … without a gap"
            )

    def finish(self, primary: fits.Header) -> None:
        """Join primary header and images into the target."""
        self.check_order()
        whole = self._folder / "whole"
        with whole.open("wb") as target:
            fits.PrimaryHDU(header=primary).writeto(target)
            for hdu in sorted(self._images):
                self._images[hdu].finish(target)
        if self._path.name.endswith(".gz"):
            whole = _pack(whole)
        whole.replace(self._path)


@contextmanager
def create_frame_file(path: str | Path, primary: fits.Header) -> Iterator[FrameFile]:
    """Write a frame file, which appears under its name when the ``with`` statement ends without an error.

    Parameters
    ----------
    path : path
        ``.fits``, ``.fits.gz`` (packed as a whole) or ``.fits.fz`` (Rice tiles of 16 rows).
    primary : Header
        Of the primary HDU, which holds no data.
    """
    path = Path(path)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."))
        file = FrameFile(path, Path(folder), stack)
        yield file
        file.finish(primary)


def _stored_image(block: np.ndarray, header: fits.Header) -> tuple[fits.Header, np.ndarray]:
    """Header and numbers with which astropy stores a block of integers (unsigned ones with BZERO)."""
    with _reopened(fits.ImageHDU(block, header=header), do_not_scale_image_data=True) as hdu:
        return hdu.header, hdu.data


def _compress(block: np.ndarray, header: fits.Header) -> tuple[fits.Header, np.ndarray, bytes]:
    """Header of the table, descriptors and heap of a block compressed with Rice's code, tiles of all columns."""
    packed = fits.CompImageHDU(block, header=header, tile_shape=(min(_TILE_ROWS, len(block)), block.shape[1]))
    with _reopened(packed, disable_image_compression=True) as hdu:
        table, place = hdu.header, hdu.fileinfo()
        assert table["TFIELDS"] == 1, f"integers compress into one column, not {table['TFIELDS']}"
        source = place["file"]
        source.seek(place["datLoc"])
        n_rows, width = table["NAXIS2"], table["NAXIS1"]
        pairs = np.frombuffer(source.read(n_rows * width), ">i4" if width == 8 else ">i8").reshape(n_rows, 2)
        source.seek(place["datLoc"] + table.get("THEAP", n_rows * width))
        heap = source.read(table["PCOUNT"])
        descriptors = np.empty(n_rows, _DESCRIPTORS)
        descriptors["length"], descriptors["offset"] = pairs.T
        return table.copy(), descriptors, heap


@contextmanager
def _reopened(hdu: Any, **how: bool) -> Iterator[Any]:
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    buffer.seek(0)
    with fits.open(buffer, memmap=False, **how) as hdus:
        yield hdus[1]


def _pack(whole: Path) -> Path:
    packed = whole.with_name("packed")
    with (
        whole.open("rb") as source,
        packed.open("wb") as sink,
        gzip.GzipFile("", "wb", 6, sink, mtime=0) as target,
    ):
        shutil.copyfileobj(source, target)
    return packed
