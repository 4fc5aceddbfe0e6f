"""Whether a login lasts: until when, and whether it will have ended when a pilot that waits in the queue starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcserve.auth.tokens import Kept
    from hpcserve.client import Client
    from hpcserve.wire.admin import Status

ASKED_S = 5.0


def lasts(kept: Kept) -> str:
    """Until when a login lasts, for people."""
    from hpcserve.core.spans import span

    if kept.renews:
        return "renews itself"
    return f"ends in {span(kept.left_s)}" if kept.left_s > 0 else "has ended"


def ends_before_a_start(kept: Kept | None, status: Status) -> str:
    """What to tell of a login that ends before a pilot is expected to start; empty if none does."""
    from hpcserve.core.spans import span

    if kept is None or kept.renews:
        return ""
    late = [each for each in status.pilots if each.starts_in_s is not None and each.starts_in_s >= kept.left_s]
    if not late:
        return ""
    last = max(late, key=lambda each: each.starts_in_s or 0.0)
    return (
        f"your login ends in {span(kept.left_s)}, and pilot {last.pilot} is expected to start in "
        f"{span(last.starts_in_s or 0.0)}: calls that wait for it will be refused; have a login that renews itself: "
        "hpcserve login --force"
    )


def warn_if_it_ends(client: Client, status: Status | None = None) -> bool:
    """Tells at once of a login that ends too early; asks for the status only of one that ends. Whether it has told."""
    from hpcserve.cli.terminal import note
    from hpcserve.errors import ServiceUnavailable
    from hpcserve.wire.admin import AskStatus, Status

    kept = client.login
    if kept is None or kept.renews:
        return False
    if status is None:
        try:
            status = client.call("status", AskStatus(), Status, timeout_s=ASKED_S)
        except ServiceUnavailable:  # what was asked for can go on without it
            return False
    told = ends_before_a_start(kept, status)
    if told:
        note(told)
    return bool(told)
