"""Inputs that are not in the message but in a file on the site."""

from __future__ import annotations

from dataclasses import dataclass

from hpcserve.errors import InvalidInput

LONGEST = 4096


@dataclass(frozen=True)
class Reference:
    """Stands for an input that lies in a file: ``file:/PATH#/DATASET``, ``globus://COLLECTION/PATH#/DATASET``.

    The file is one of the service's site, HDF5 or, without a data set, ``.npy``. In a path a space is written ``%20``,
    ``#`` ``%23``, ``?`` ``%3F`` and ``%`` ``%25``.
    """

    uri: str

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str) or not self.uri.startswith(("file:", "globus:")):
            raise InvalidInput(
                f"reference {self.uri!r}: expected file:/PATH#/DATASET or globus://COLLECTION/PATH#/DATASET"
            )
        if len(self.uri) > LONGEST:
            raise InvalidInput(f"a reference of {len(self.uri)} characters: at most {LONGEST} are sent")
        if any(each < " " or "\x7f" <= each <= "\x9f" for each in self.uri):  # urlsplit drops some without a word
            raise InvalidInput(
                f"reference {self.uri!r}: a control character is in it; one of a path's own is written %0A, %09"
            )
