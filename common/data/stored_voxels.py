"""Compares the voxels that ITK has read from a file with what the file stores: their number and their check sum."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

CHUNK = 2**20
GZIP = b"\x1f\x8b"
UNUSUAL = 50  # times as large as their compressed form images rarely are (masks are, and quick to decompress)


class StoredVoxels(NamedTuple):
    """Where the voxels of an MHD, MHA or NRRD file are, and how they are stored.

    ITK reads what little there is of data that are cut off or damaged, and beyond them whatever the memory held.
    """

    image: Path
    data: Path  # the image's own file, or one beside it
    start: int  # the first byte of the voxels
    packed: bool  # by zlib or gzip
    swapped: bool  # high bytes first
    shape: str
    type: str
    size: int  # of all voxels, in bytes

    def require_whole(self, values: np.ndarray | None = None) -> None:
        """Refuses data of another size, or that are damaged.

        Args:
            values: the voxels as ITK has read them, in the stored type and order. With them, whole compressed data are
                not decompressed a second time.

        Raises:
            ValueError: naming the image and the file.
        """
        if self.packed and values is not None and self._has_check_sum_of(values):
            return
        found = self._unpacked_size() if self.packed else self._stored_size()
        if found != self.size:
            raise ValueError(
                f"{self.image} must have {self.size} bytes in {self.data.name} for {self.shape} voxels of {self.type}, "
                f"got {'more' if self.packed and found > self.size else found}: the data have been cut off, or they or "
                "the header are another image's. Copy them again."
            )
        if values is not None and (self.packed or values.nbytes != self.size):
            raise ValueError(
                f"{self.image} must be read by ITK as it is stored, got other voxels than those in {self.data.name}: "
                "write it again, as itk.imwrite does."
            )

    def require_possible(self) -> None:
        """Refuses, before ITK makes room for it, a size that uncompressed data have not, and one that is improbable.

        Raises:
            ValueError: as `require_whole`.
        """
        if not self.packed or self.size > UNUSUAL * self._stored_size():
            self.require_whole()

    def _stored_size(self) -> int:
        return self.data.stat().st_size - self.start

    def _has_check_sum_of(self, values: np.ndarray) -> bool:
        """Whether the data end with the voxels' check sum: zlib's Adler-32 (RFC 1950), gzip's CRC and length (1952)."""
        stored = np.ascontiguousarray(values.byteswap() if self.swapped else values).reshape(-1).view(np.uint8)
        with self.data.open("rb") as file:
            file.seek(self.start)
            kind, rest = file.read(2), file.seek(0, 2) - self.start
            file.seek(-min(8, rest), 2)
            end = file.read()
        if kind == GZIP:
            return end == struct.pack("<II", zlib.crc32(stored), stored.size % 2**32)
        return end[-4:] == struct.pack(">I", zlib.adler32(stored))

    def _unpacked_size(self) -> int:
        """How many bytes the compressed data hold; no more than one piece too many is looked at.

        Raises:
            ValueError: naming the image and the file, where they are damaged, have no end, or do not end with the file.
        """
        engine, found, read = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), 0, True  # zlib or gzip, as ITK
        try:
            with self.data.open("rb") as file:
                file.seek(self.start)
                while read and found <= self.size and not engine.eof:
                    packed = engine.unconsumed_tail or file.read(CHUNK)
                    part = engine.decompress(packed, CHUNK)
                    found, read = found + len(part), bool(packed or part)
                whole = engine.eof and not engine.unused_data and not file.read(1)
        except zlib.error as error:
            raise ValueError(
                f"{self.image} must have whole compressed data in {self.data.name}, got damaged ones ({error}): copy "
                "it again."
            ) from error
        if found == self.size and not whole:
            raise ValueError(
                f"{self.image} must have compressed data that end in {self.data.name} as they should, got "
                f"{'more bytes after them' if engine.eof else 'no end'}: copy it again, or write it anew, as "
                "itk.imwrite does."
            )
        return found
