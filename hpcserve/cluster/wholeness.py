"""Whether an image that was built here still is what was built, signed or not.

What its objects were is noted in the cache when it is made. A signature is put behind them, and changes what is before
them: the header. An image that was not made with this cache, of which nothing is noted, passes as whole.
Source: the SIF file format of Apptainer's sif, ``pkg/sif``: the header's 128 bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import msgspec

_OBJECTS_AT = struct.Struct("<112xq8x")
_BLOCK_BYTES = 1 << 20


class _Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it was made, and the sha256 of its objects."""

    size_bytes: int
    mtime_ns: int
    sha256: str


def note(cache: Path, image: Path) -> None:
    """Notes what an image is, just after it was made.

    Raises:
        OSError: It cannot be read, or the note not be written.
    """
    found = image.stat()
    place = _place(cache, image)
    place.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.encode(_Note(found.st_size, found.st_mtime_ns, _objects(image, found.st_size)))
    part = place.with_name(f"{place.name}.{os.getpid()}")
    part.write_bytes(text)
    part.replace(place)


def is_whole(cache: Path, image: Path) -> bool:
    """Whether an image that is there is what was noted of it; its content is read only if size or time are not.

    Raises:
        OSError: It cannot be read.
    """
    try:
        made = msgspec.json.decode(_place(cache, image).read_bytes(), type=_Note)
    except (FileNotFoundError, msgspec.MsgspecError):
        return True
    found = image.stat()
    if (found.st_size, found.st_mtime_ns) == (made.size_bytes, made.mtime_ns):
        return True
    return found.st_size >= made.size_bytes and _objects(image, made.size_bytes) == made.sha256


def _objects(image: Path, until_bytes: int) -> str:
    """The sha256 of an image's objects, up to that place in the file; empty: it is no image."""
    digest = hashlib.sha256()
    with image.open("rb", buffering=0) as file:
        head = file.read(_OBJECTS_AT.size)
        if len(head) < _OBJECTS_AT.size:
            return ""
        (at,) = _OBJECTS_AT.unpack(head)
        if not 0 < at < until_bytes:
            return ""
        file.seek(at)
        while block := file.read(min(_BLOCK_BYTES, until_bytes - file.tell())):
            digest.update(block)
    return digest.hexdigest()


def _place(cache: Path, image: Path) -> Path:
    return cache / "made" / hashlib.sha256(os.fsencode(image.absolute())).hexdigest()[:16]
