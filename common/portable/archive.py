"""What lies in a zip file, once it is known to be nothing but files of one folder as its manifest lists them."""

from __future__ import annotations

import hashlib
import json
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from common.portable.package import MANIFEST

LARGEST = 2**32  # bytes of all members
RATIO = 1000  # of a member's size to that in the file; weights and texts stay far below


def in_archive(file: str | Path) -> tuple[dict[str, bytes], list[str]]:
    """Content of each file by its name in the folder; and what is wrong with the zip file, which is not read then.

    Raises:
        SystemExit: when it is no zip file, or a damaged one.
    """
    try:
        with ZipFile(file) as opened:
            problems = list(unsafe(opened))  # before any of it is read
            return ({}, problems) if problems else unpacked(opened)
    except (OSError, BadZipFile, zlib.error, EOFError) as error:
        raise SystemExit(f"error: {file} must be a zip file as it was packed, got {error}: copy it again.") from error


def unsafe(file: ZipFile) -> Iterator[str]:
    """Members that are not simply files inside of the one folder."""
    members = file.infolist()
    names = Counter(member.filename.casefold() for member in members)
    yield from (f"{name} is there {number} times" for name, number in names.items() if number > 1)
    tops = {PurePosixPath(member.filename).parts[:1] for member in members}
    if len(tops) != 1:
        yield f"all files must lie in one folder, got {len(tops)}: {sorted(''.join(top) for top in tops)[:3]}"
    size = sum(member.file_size for member in members)
    if size > LARGEST:
        yield f"all files must be at most {LARGEST} bytes, got {size}"
    for member in members:
        fault = unsafe_member(member)
        if fault:
            yield f"{member.filename!r} must be a file inside of its folder, got {fault}"


def unsafe_member(member: ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    parts = PurePosixPath(name).parts
    strange = set(name) & set("\\:") or not name.isprintable() or "/".join(parts) != name
    if strange or ".." in parts or name.startswith("/") or len(parts) < 2 or member.is_dir():
        return "a name that leads elsewhere"
    if member.extra or member.orig_filename != name:
        return "another name beside this one"
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "a link or a device"
    if member.flag_bits & 1 or member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "one that is encrypted, or packed in a way that is not used here"
    if member.file_size > RATIO * max(1, member.compress_size):
        return f"{member.file_size} bytes, packed in {member.compress_size}"
    return ""


def unpacked(file: ZipFile) -> tuple[dict[str, bytes], list[str]]:
    """Content of each file by its name in the folder, and where it is not that of the manifest."""
    contents = {"/".join(PurePosixPath(name).parts[1:]): file.read(name) for name in file.namelist()}
    try:
        sums = dict(json.loads(contents.pop(MANIFEST, b"none"))["sha256"])
        own = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        problems = [f"{name} is in the manifest and not in the file" for name in sums if name not in own]
    except (ValueError, KeyError, TypeError, RecursionError):
        return contents, [f"{MANIFEST} must be there with the SHA-256 of every file: pack the bundle again"]
    problems += [f"{name} is not in the manifest" for name in own if name not in sums]
    changed = [name for name in own if name in sums and own[name] != sums[name]]
    return contents, problems + [f"{name} has another SHA-256 than the manifest: it was changed" for name in changed]
