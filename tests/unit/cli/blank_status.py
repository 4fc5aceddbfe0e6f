"""The status of a daemon of which there is nothing to say but what a test says."""

from __future__ import annotations

from typing import Any

from hpcserve.wire.admin import Status

NOTHING: dict[str, Any] = {
    "service": "local",
    "site": "local",
    "host": "login1",
    "software": "",
    "epoch": 1,
    "uptime_s": 1.0,
    "processes": {},
    "sessions": 0,
    "requests": 0,
    "answered": 0,
    "failed": 0,
    "refused": 0,
    "requeued": 0,
    "held_bytes": 0,
    "recovering": False,
    "servables": (),
    "deployments": (),
    "pilots": (),
}


def blank(**more: Any) -> Status:
    """A status with this."""
    return Status(**NOTHING | more)
