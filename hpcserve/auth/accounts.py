"""Which account of the site is whose, by a mapping file as Globus Connect Server has it.

The file is a document of JSON, or a list of such documents, of type ``expression_identity_mapping``. The rules are
carried out by Globus's own library. Of an identity it is told the ``id`` and the ``username``. A document that runs a
program is refused: this is asked in the process that anybody may talk to.

Source: Globus Connect Server v5.4, Identity Mapping Guide; globus-identity-mapping 0.6.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hpcserve.errors import ConfigError

_log = logging.getLogger(__name__)

KIND = "expression_identity_mapping"
FIELD = "access.accounts"
ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""Source: useradd(8). Other names may mean something to a shell, or in a path."""
_REFERENCE = re.compile(r"\{([^}]*)\}")
_KNOWN = frozenset({"id", "username"})


class _Mapper(Protocol):
    def map_identity(self, identity_data: dict[str, str]) -> str | None:
        """The account."""


class Accounts:
    """The mapping of one file.

    Args:
        path: The file; nobody else may write it.

    Raises:
        ConfigError: It cannot be read, or is no mapping that can be kept to; or the library is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._refused: set[str] = set()
        self._mappers = [_mapper(path, document) for document in _documents(path)]

    def account(self, id: str, username: str) -> str:
        """The account of an identity of Globus; empty if it has none. Never root."""
        if not username.isprintable():  # to the library (0.6.0) "ada@x" and "ada@x\n" are the same
            return ""
        for mapper in self._mappers:
            found = mapper.map_identity({"id": id, "username": username, "status": "used"})
            if found is None:
                continue
            if found != "root" and ACCOUNT.fullmatch(found):
                return found
            if found not in self._refused:
                _log.error("%s: %s is mapped to %r, which is no account for anybody", FIELD, username, found)
                self._refused.add(found)
            return ""
        return ""


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        read = msgspec.json.decode(_read(path))
    except OSError as error:
        raise ConfigError(f"{FIELD}: cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{FIELD}: {path} is not JSON: {error}") from error
    documents = read if isinstance(read, list) else [read]
    for document in documents:
        if not isinstance(document, dict) or str(document.get("DATA_TYPE", "")).partition("#")[0] != KIND:
            raise ConfigError(f'{FIELD}: {path}: expected documents with "DATA_TYPE": "{KIND}#1.0.0"')
    return documents


def _read(path: Path) -> bytes:
    """The content of a file of ours or of root's."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise ConfigError(
                f"{FIELD}: {path} may be written by others; run: chmod 644 '{path}', as its owner or root"
            )
        return file.read()


def _mapper(path: Path, document: dict[str, Any]) -> _Mapper:
    try:
        from globus_identity_mapping.mappers.expression import ExpressionIdentityMapping
    except ImportError as error:
        raise ConfigError(
            f"{FIELD} needs Globus's mapping of identities: pip install 'hpcserve[accounts]' ({error})"
        ) from error
    try:
        mapper: _Mapper = ExpressionIdentityMapping.from_mapping_document(document)
    except Exception as error:  # the library's own, marshmallow's, and KeyError: whatever it is, the file is wrong
        raise ConfigError(f"{FIELD}: {path}: {error}") from error
    for rule in document["mappings"]:
        _check(path, rule)
    return mapper


def _check(path: Path, rule: dict[str, Any]) -> None:
    """What the library would only find out when somebody comes, or take for something else than it looks like."""
    match = str(rule["match"])
    for text in (rule["source"], rule["output"]):
        for name in _REFERENCE.findall(str(text)):
            if not name.isdigit() and name not in _KNOWN:
                raise ConfigError(f"{FIELD}: {path}: {text!r} names {{{name}}}; only {{id}} and {{username}} are known")
    if not rule.get("literal") and "|" in _outside_parentheses(match):
        # It becomes ^a|b$ (0.6.0): whatever begins with a, or ends with b.
        raise ConfigError(f"{FIELD}: {path}: match {match!r}: put alternatives into parentheses, (a|b)")


def _outside_parentheses(match: str) -> str:
    """The characters that are not escaped and stand in no group."""
    depth, outside = 0, ""
    for character in re.sub(r"\\.", "", match):
        depth += {"(": 1, ")": -1}.get(character, 0)
        outside += character if depth == 0 else ""
    return outside
