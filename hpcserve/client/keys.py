"""The user's own CURVE key: one for all processes of this user on this file system."""

from __future__ import annotations

from hpcserve import config
from hpcserve.auth.keys import CLIENT_KEY, KeyPair, load_or_create


def client_keys() -> KeyPair:
    """The key pair in the user's hpcserve directory, made when it is first needed.

    Raises:
        ConfigError: The file may be read by others, or is broken.
    """
    return load_or_create(config.home() / CLIENT_KEY)
