"""Encrypts what must not be read from the store: refresh tokens. The key is in a file of the daemon's alone."""

from __future__ import annotations

from pathlib import Path

from hpcserve.auth.private import read_private, replace
from hpcserve.errors import ConfigError


class Seal:
    """A key in a file, made when it is first needed.

    Args:
        path: The file; it has mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def sealed(self, text: str) -> str:
        """The text, encrypted.

        Raises:
            ConfigError: The key cannot be read or written, or ``cryptography`` is not installed.
        """
        token: bytes = self._fernet(make=True).encrypt(text.encode())
        return token.decode("ascii")

    def opened(self, sealed: str) -> str:
        """The text again; empty if it cannot be read with this key.

        Raises:
            ConfigError: The key cannot be read, or ``cryptography`` is not installed.
        """
        from cryptography.fernet import InvalidToken

        try:
            text: bytes = self._fernet(make=False).decrypt(sealed.encode("ascii"))
        except (InvalidToken, FileNotFoundError):
            return ""
        return text.decode()

    def _fernet(self, *, make: bool):  # type: ignore[no-untyped-def]  # noqa: ANN202 (a class of an optional package)
        try:
            from cryptography.fernet import Fernet
        except ImportError as error:
            raise ConfigError(
                f"to keep logins cryptography is needed: pip install 'hpcserve[globus]' ({error})"
            ) from error
        try:
            key = read_private(self._path, secret=True).strip()
        except FileNotFoundError:
            if not make:
                raise
            key = Fernet.generate_key()
            replace(self._path, key)
        try:
            return Fernet(key)
        except ValueError as error:
            raise ConfigError(
                f"{self._path}: it is no key; remove it: who waits for a transfer logs in again"
            ) from error
