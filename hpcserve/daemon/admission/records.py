"""What the audit log is told of HELLOs."""

from __future__ import annotations

from hpcserve.auth.keys import to_z85
from hpcserve.daemon.audit import Record
from hpcserve.errors import HpcserveError
from hpcserve.wire.hub import Identity

HELLO = "hello"


def record(
    action: str,
    by: str,
    key: bytes,
    identity: Identity | None = None,
    error: HpcserveError | None = None,
    *,
    digest: str = "",
    peer: str = "",
) -> Record:
    """A line about a key: let in, refused, or put out.

    Args:
        action: HELLO or PUT_OUT.
        by: What decided: the list of keys, or Globus.
        key: The CURVE key.
        identity: Whose it is, if that is known.
        error: Why it is not in; None: it is.
        digest: The SHA-256 of the token that came along.
        peer: The address that it came from.
    """
    who = identity or Identity("")
    return Record(
        action=action,
        object="service",
        allowed=error is None,
        by=by,
        reason="" if error is None else f"{error.code}: {error.message}",
        name=who.name,
        id=who.id,
        account=who.account,
        key=to_z85(key),
        token_sha256=digest or who.token_sha256,
        peer=peer,
    )
