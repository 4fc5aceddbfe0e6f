"""Which CURVE keys may use the data sockets, as admission and the controller said. In memory only.

A key that was let in for a time is out when that is over, whether or not anybody is there to say so.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hpcserve.auth.keys import to_z85
from hpcserve.wire.hub import AdmitKey, Identity

FRONT, BACK = "front", "back"
_DOMAIN_OF = {"client": FRONT, "agent": BACK, "replica": BACK}
LATE_S = 2.0
"""Admission, which knows why a key is out, has so long to say so before it is taken out without a reason."""


class Peer(NamedTuple):
    """Somebody who was let in."""

    key: bytes
    role: str
    subject: str
    identity: Identity


class Keyring:
    """The table that ZAP looks into. A User-Id is the key in hexadecimal."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}
        self._until: dict[bytes, float] = {}

    def admit(self, message: AdmitKey, now: float) -> Peer:
        """Lets a key in. Who is known by the name alone has that, and the key. ``now``: monotonic seconds."""
        if message.lasts_s is None:
            self._until.pop(message.key, None)
        else:
            self._until[message.key] = now + message.lasts_s + LATE_S
        identity = message.identity or Identity(message.subject)
        if not identity.key:
            identity = msgspec.structs.replace(identity, key=to_z85(message.key))
        peer = self._peers[message.key.hex()] = Peer(message.key, message.role, message.subject, identity)
        return peer

    def revoke(self, key: bytes) -> Peer | None:
        """Takes a key out; returns who it was."""
        self._until.pop(key, None)
        return self._peers.pop(key.hex(), None)

    def over(self, now: float) -> list[bytes]:
        """The keys whose time is over. They are in until they are revoked."""
        return [key for key, until in self._until.items() if until <= now]

    def peer(self, user: str) -> Peer | None:
        """Who has this User-Id, while admitted."""
        return self._peers.get(user)

    def decide(self, key: bytes, domain: str) -> str | None:
        """ZAP's question: may this key use the sockets of this domain? The answer is its User-Id."""
        user = key.hex()
        peer = self.peer(user)
        return user if peer is not None and _DOMAIN_OF[peer.role] == domain else None
