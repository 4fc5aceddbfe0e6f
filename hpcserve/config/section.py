"""What the tables of a site file are made of."""

from __future__ import annotations

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]
SizeBytes = Annotated[int, msgspec.Meta(gt=0)]

MIB = 1 << 20
GIB = 1 << 30


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the tables of a site file."""
