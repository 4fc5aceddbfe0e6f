"""``[staging]``: where large results lie, for how long, and which collections and paths a site has."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

import msgspec

from hpcserve.config.section import MIB, Seconds, Section, SizeBytes

_COLLECTION_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Collection(Section, frozen=True):
    """``[[staging.collections]]``: what lies below ``prefix`` on the site lies on the Globus collection ``id``.

    ``kind``: ``mapped`` to the accounts of the site's users, a ``guest`` collection of the service, or the user's
    ``personal`` one. ``https``: files can be had from it by HTTPS too.
    """

    id: str
    prefix: str
    kind: Literal["mapped", "guest", "personal"]
    https: bool = False

    def __post_init__(self) -> None:
        if not _COLLECTION_ID.fullmatch(self.id):
            raise ValueError(f"id: expected the UUID of a collection, got {self.id!r}")
        msgspec.structs.force_setattr(self, "id", self.id.lower())  # as everywhere else, whoever wrote it
        _check_path("prefix", self.prefix)


class Staging(Section, frozen=True):
    """``[staging]``: results over ``inline_limit_bytes`` are written to HDF5 files below ``directory``.

    A file is removed ``keep_s`` after its delivery, and, unless that is infinite, ``keep_undelivered_s`` after it was
    written without one; what lies in subdirectories in mode ``service``, ``keep_inputs_s`` after its last change. The
    files of one caller take at most ``quota_bytes``; 0: no limit. References may lead to files below ``roots``, and
    read at most ``reference_bytes``.

    Up to ``https_limit_bytes`` a result is fetched by HTTPS from a collection that has that. Each user has
    ``transfers_per_user`` transfer tasks at once, of at most ``transfer_files`` files and ``transfer_bytes``, and a
    result waits ``transfer_wait_s`` for more. Globus has ``transfer_deadline_s`` for a task; what may mend
    itself though nobody comes back, such as a collection in disorder, it may try again for ``transfer_faults_s``.
    """

    directory: str = ""
    inline_limit_bytes: SizeBytes = 8 * MIB
    compression: Literal["gzip", "none"] = "gzip"
    chunk_bytes: Annotated[int, msgspec.Meta(ge=4096)] = MIB
    keep_s: Seconds = 24 * 3600.0
    keep_undelivered_s: Seconds = math.inf
    keep_inputs_s: Seconds = 7 * 24 * 3600.0
    quota_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    roots: tuple[str, ...] = ()
    reference_bytes: SizeBytes = 4096 * MIB
    https_limit_bytes: SizeBytes = 256 * MIB
    transfers_per_user: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    transfer_files: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    transfer_bytes: SizeBytes = 1024 * 1024 * MIB
    transfer_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    transfer_deadline_s: Annotated[float, msgspec.Meta(ge=60)] = 24 * 3600.0
    transfer_faults_s: Seconds = 600.0
    collections: tuple[Collection, ...] = ()

    def __post_init__(self) -> None:
        if self.directory:
            _check_path("directory", self.directory)
        for root in self.roots:
            _check_path("roots", root)
        ids = [each.id for each in self.collections]
        if len(set(ids)) < len(ids):
            raise ValueError("collections: expected each id once")


def _check_path(field: str, path: str) -> None:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{field}: expected a whole path without '..', got {path!r}")
