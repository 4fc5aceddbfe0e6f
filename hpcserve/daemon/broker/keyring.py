"""Which CURVE keys may use the data sockets, as admission and the controller said. In memory only."""

from __future__ import annotations

from typing import NamedTuple

from hpcserve.wire.hub import AdmitKey

FRONT, BACK = "front", "back"
_DOMAIN_OF = {"client": FRONT, "agent": BACK, "replica": BACK}


class Peer(NamedTuple):
    """Somebody who was let in."""

    key: bytes
    role: str
    subject: str


class Keyring:
    """The table that ZAP looks into. A User-Id is the key in hexadecimal."""

    def __init__(self) -> None:
        self._peers: dict[str, Peer] = {}

    def admit(self, message: AdmitKey) -> None:
        """Lets a key in."""
        self._peers[message.key.hex()] = Peer(message.key, message.role, message.subject)

    def revoke(self, key: bytes) -> Peer | None:
        """Takes a key out; returns who it was."""
        return self._peers.pop(key.hex(), None)

    def peer(self, user: str) -> Peer | None:
        """Who has this User-Id, while admitted."""
        return self._peers.get(user)

    def decide(self, key: bytes, domain: str) -> str | None:
        """ZAP's question: may this key use the sockets of this domain? The answer is its User-Id."""
        user = key.hex()
        peer = self.peer(user)
        return user if peer is not None and _DOMAIN_OF[peer.role] == domain else None
