"""Which CURVE keys may use the data sockets, as admission and the controller said. In memory only."""

from __future__ import annotations

from typing import NamedTuple

from hpcserve.wire.hub import AdmitKey

FRONT, BACK = "front", "back"
_DOMAIN_OF = {"client": FRONT, "agent": BACK, "replica": BACK}


class Peer(NamedTuple):
    """Somebody who was let in. ``expires_at`` in the broker's monotonic seconds."""

    key: bytes
    role: str
    subject: str
    expires_at: float


class Keyring:
    """The table that ZAP looks into. A User-Id is the key in hexadecimal."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def admit(self, message: AdmitKey, now: float) -> None:
        """Lets a key in, or renews it."""
        expires_at = float("inf") if message.expires_s is None else now + message.expires_s
        self._peers[message.key.hex()] = Peer(message.key, message.role, message.subject, expires_at)

    def revoke(self, key: bytes) -> Peer | None:
        """Takes a key out; returns who it was."""
        return self._peers.pop(key.hex(), None)

    def peer(self, user: str, now: float) -> Peer | None:
        """Who has this User-Id, while admitted."""
        peer = self._peers.get(user)
        return peer if peer is not None and peer.expires_at > now else None

    def decide(self, key: bytes, domain: str, now: float) -> str | None:
        """ZAP's question: may this key use the sockets of this domain? The answer is its User-Id."""
        user = key.hex()
        peer = self.peer(user, now)
        return user if peer is not None and _DOMAIN_OF[peer.role] == domain else None
