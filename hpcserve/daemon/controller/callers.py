"""Paths that a caller of an administrative call names, where one account serves many (mode ``service``).

By name they are judged as references are. That no symbolic link leads elsewhere is looked at here, for the message's
sake; what is read later is read by :func:`hpcserve.registry.content.open_below` again, since a directory's owner may
put a link in its place at any time.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hpcserve.config import Site
from hpcserve.core.sitepaths import check_below, checked
from hpcserve.errors import InvalidInput, ManifestError, PermissionDenied
from hpcserve.registry.content import open_below
from hpcserve.registry.manifest_file import FILE_NAME
from hpcserve.servable.manifest import Manifest


def check_directory(site: Site, owner: str, directory: str) -> None:
    """Whether a caller may publish what is there.

    Args:
        site: The site.
        owner: The name of the caller's own directory.
        directory: The servable's, as the caller has named it.

    Raises:
        PermissionDenied: It is not the caller's own, or a symbolic link is in its path.
        InvalidInput: The path has detours, or leads nowhere, or there is no ``servable.toml``.
    """
    if site.mode == "service":
        _check_own(site, owner, directory, "the servable's directory", FILE_NAME)


def check_manifest(site: Site, owner: str, manifest: Manifest) -> None:
    """Whether a caller may publish what its manifest, as it was taken in, names. Nothing of it has been run.

    Raises:
        PermissionDenied: The image is not the caller's own, or a symbolic link is in its path.
        ManifestError: It runs without a container, or has several ranks where publishers are not trusted.
        InvalidInput: The image's path has detours, or leads nowhere.
    """
    if site.mode != "service":
        return
    environment = manifest.environment
    if environment.kind != "container":
        raise ManifestError(
            f'servable.toml: environment: kind is "{environment.kind}"; this service runs servables of many people, '
            'and so in containers only: kind = "container"'
        )
    if manifest.ranks.size > 1 and not site.containers.trust_publishers:
        raise ManifestError(
            f"servable.toml: ranks.size is {manifest.ranks.size}, and containers of several ranks see all processes "
            "and the shared memory of their node, those of other people's servables too: have one rank, or ask who "
            "administers the site for containers.trust_publishers"
        )
    _check_own(site, owner, str(environment.image), "the image")


def anchor_of(site: Site) -> Path | None:
    """The directory below which nothing of a caller's is opened through a symbolic link; None: anything is."""
    return Path(site.staging_dir) if site.mode == "service" else None


def _check_own(site: Site, owner: str, path: str, what: str, within: str = "") -> None:
    plain = checked(path, what)
    check_below(plain, (f"{site.staging_dir}/{owner}",), what)
    whole = Path(plain, within)
    try:
        os.close(open_below(Path(site.staging_dir), whole))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise PermissionDenied(
                f"{what}: {whole}: there is a symbolic link in it, or a file for a directory; name it by the path "
                "where it really is"
            ) from error
        raise InvalidInput(f"{what}: {whole}: {error.strerror}; put it there first") from error
