"""CURVE key pairs as files.

The format, version 1: lines of text, ``public: KEY`` and ``secret: KEY`` in this order, each key as 40
characters of Z85 (ZeroMQ RFC 32); empty lines and those that begin with ``#`` say nothing. The file is
0600 in a directory of mode 0700, both the user's own, or it is refused.

Decides nothing about whom a key lets in: see :mod:`hpcserve.auth.authorized`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from hpcserve.auth.private import create, private_directory, read_private
from hpcserve.errors import ConfigError
from hpcserve.types import PublicKey

KEY_BYTES = 32
CLIENT_KEY = "client.key"
"""The file of the user's own key, below :func:`hpcserve.config.home`."""
_HEAD = "# A key of hpcserve. Whoever has the secret is its owner: do not copy, mail or publish this file.\n"
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, each key as its 32 raw bytes, which is what ZeroMQ's socket options take."""

    public: PublicKey
    secret: bytes = field(repr=False)

    @property
    def public_z85(self) -> str:
        """The public key as 40 printable characters."""
        return to_z85(self.public)

    @property
    def secret_z85(self) -> str:
        """The secret key as 40 printable characters."""
        return to_z85(self.secret)


def to_z85(key: bytes) -> str:
    """A key of 32 bytes as 40 printable characters."""
    return z85.encode(key).decode("ascii")


def from_z85(text: str) -> bytes:
    """The 32 bytes of a key.

    Raises:
        ValueError: ``text`` is no key in Z85. The message does not repeat it: it may be a secret.
    """
    if not _Z85.fullmatch(text):
        raise ValueError(f"not a key in Z85 (40 characters): got {len(text)} characters")
    try:
        return z85.decode(text.encode("ascii"))
    except struct.error as error:
        raise ValueError("not a key in Z85: a group of five characters is out of range") from error


def new_key_pair() -> KeyPair:
    """A key pair that nobody has had before."""
    public, secret = zmq.curve_keypair()
    return KeyPair(PublicKey(z85.decode(public)), z85.decode(secret))


def load(path: Path) -> KeyPair:
    """The key pair in the file ``path``.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: The file or its directory is open to others or not ours, or it holds something else.
    """
    content = read_private(path, secret=True)
    private_directory(path.parent)
    return _parse(content, path)


def load_or_create(path: Path) -> KeyPair:
    """The key pair in the file ``path``, made now if there is none. Who comes second gets the first one's.

    Raises:
        ConfigError: As in :func:`load`, or the file cannot be made.
        StorageFull: The disk is full; no part of a key is left behind.
    """
    private_directory(path.parent)
    try:
        return load(path)
    except FileNotFoundError:
        pair = new_key_pair()
        content = f"{_HEAD}public: {pair.public_z85}\nsecret: {pair.secret_z85}\n"
        return pair if create(path, content.encode("ascii")) else load(path)


def _parse(content: bytes, path: Path) -> KeyPair:
    found: dict[str, bytes] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, text = line.partition(":")
        if name not in ("public", "secret") or name in found:
            raise ConfigError(f"{path}:{number}: expected one 'public: KEY' and one 'secret: KEY'")
        try:
            found[name] = from_z85(text.strip())
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    if len(found) != 2:
        raise ConfigError(f"{path}: not a key file; restore it, or move it away and a new key is made")
    if z85.decode(zmq.curve_public(z85.encode(found["secret"]))) != found["public"]:
        raise ConfigError(f"{path}: the public key does not belong to the secret one; restore the file")
    return KeyPair(PublicKey(found["public"]), found["secret"])
