"""Looks through a submitted transfer or delete document before it becomes a task."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from hpcserve.testing.globus.http import Request
from hpcserve.testing.globus.transfer_callers import refusal

BAD = "ClientError.BadRequest"
UNKNOWN = ("delete_destination_extra", "filter_rules", "interpret_globs")
"""What Transfer can do and the stand-in cannot: it says so, rather than to ignore it."""


def check_items(request: Request, document: dict[str, Any]) -> None:
    """Whether there is something to do, and all of it is understood.

    Raises:
        Refusal: It cannot become a task.
    """
    kind = document.get("DATA_TYPE")
    if kind not in ("transfer", "delete"):
        raise refusal(request, 400, BAD, f"DATA_TYPE: expected transfer or delete, got {kind!r}")
    items = document.get("DATA")
    if not isinstance(items, list) or not items:
        raise refusal(request, 400, f"{BAD}.NoTransferItems", f"A {kind} requires at least one item")
    if unknown := [name for name in UNKNOWN if document.get(name)]:
        raise refusal(request, 501, "NotImplemented", f"the loopback stand-in knows no {unknown[0]}")
    if not isinstance(document.get("submission_id"), str):
        raise refusal(request, 400, BAD, "submission_id is required")
    named = ("source_path", "destination_path") if kind == "transfer" else ("path",)
    for item in items:
        if not all(isinstance(item.get(name), str) and item[name] for name in named):
            raise refusal(request, 400, BAD, f"an item needs {' and '.join(named)}: {item}")
        algorithm = item.get("checksum_algorithm") or "MD5"
        if algorithm.replace("-", "").lower() not in hashlib.algorithms_guaranteed:
            raise refusal(request, 400, BAD, f"checksum_algorithm: {algorithm!r} is not known")
    if document.get("sync_level") not in (None, 0, 1, 2, 3):
        raise refusal(request, 400, BAD, f"sync_level: expected 0 to 3, got {document['sync_level']!r}")


def deadline(request: Request, document: dict[str, Any], now: float) -> float | None:
    """The deadline in seconds since 1970, if there is one.

    Raises:
        Refusal: It is no time, or has passed.
    """
    text = document.get("deadline")
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise refusal(request, 400, BAD, f"deadline: {error}") from error
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if seconds <= now:
        raise refusal(request, 400, BAD, f"deadline: {text} has passed")
    return seconds
