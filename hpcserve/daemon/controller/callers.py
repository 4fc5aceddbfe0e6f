"""Paths that a caller of an administrative call names, where one account serves many (mode ``service``).

By name they are judged as references are; here they are looked at on the disk, too: a symbolic link may lead elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from hpcserve.config import Site
from hpcserve.core.sitepaths import check_below, checked
from hpcserve.errors import InvalidInput, ManifestError, PermissionDenied
from hpcserve.servable.manifest import Manifest


def check_directory(site: Site, owner: str, directory: str) -> None:
    """Whether a caller may publish what is there.

    Args:
        site: The site.
        owner: The name of the caller's own directory.
        directory: The servable's, as the caller has named it.

    Raises:
        PermissionDenied: It is not the caller's own.
        InvalidInput: The path has detours, or leads nowhere.
    """
    if site.mode == "service":
        _check_own(directory, f"{site.staging_dir}/{owner}", "the servable's directory")


def check_manifest(site: Site, owner: str, manifest: Manifest) -> None:
    """Whether a caller may publish what its manifest, as it was taken in, names. Nothing of it has been run.

    Raises:
        PermissionDenied: The image is not the caller's own.
        ManifestError: It runs without a container.
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
    _check_own(str(environment.image), f"{site.staging_dir}/{owner}", "the image")


def _check_own(path: str, own: str, what: str) -> None:
    plain = checked(path, what)
    check_below(plain, (own,), what)
    try:
        real, above = Path(plain).resolve(strict=True), Path(own).resolve(strict=True)
    except OSError as error:
        raise InvalidInput(f"{what}: {plain}: {error.strerror}; put it there first") from error
    except RuntimeError as error:
        raise InvalidInput(f"{what}: {plain}: {error}") from error
    if not real.is_relative_to(above):
        raise PermissionDenied(f"{what}: {plain} leads to {real}, by a symbolic link, which is outside of {own}")
