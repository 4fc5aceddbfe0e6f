"""Which file a site is in: the user's own, one that is shipped, or any path; and those that it stands on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from hpcserve.config.environment import expanded, home, site_named
from hpcserve.errors import ConfigError
from hpcserve.sitefile import SiteFile, parsed


def site_names() -> dict[str, str]:
    """The sites that can be named, each with where its file is; the user's own hide shipped ones of the same name."""
    shipped = {_stem(entry.name): f"site_configs/{entry.name}" for entry in files("hpcserve.site_configs").iterdir()}
    own = {_stem(path.name): str(path) for path in (home() / "sites").glob("*.toml") if path.is_file()}
    return {name: place for name, place in sorted({**shipped, **own}.items()) if place.endswith(".toml")}


def _stem(file: str) -> str:
    return file.removesuffix(".toml")


def _found(site: str, but: Sequence[str] = ()) -> tuple[str, str, str]:
    """What to call a site's file, the site's name, and the text.

    Args:
        site: A name or a path.
        but: Files that are not meant by a name.
    """
    if site.endswith(".toml") or "/" in site:
        path = expanded(site)
        return str(path), path.stem, _text(path)
    own = home() / "sites" / f"{site}.toml"
    if os.path.lexists(own) and str(own) not in but:
        return str(own), site, _text(own)
    shipped = files("hpcserve.site_configs").joinpath(f"{site}.toml")
    if not shipped.is_file():
        if str(own) in but:
            raise ConfigError(f"{site!r} leads back to {own}; name another site")
        raise ConfigError(f"no site named {site!r}; known: {', '.join(site_names())}; or give the path of a .toml file")
    return f"site_configs/{site}.toml", site, shipped.read_text()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        told = f"it is a link to {path.readlink()}, which is not there" if path.is_symlink() else str(error)
        raise ConfigError(f"cannot read site file {path}: {told}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read site file {path}: {error}") from error


def with_bases(site: str, read: Callable[[str, str, str], SiteFile] = parsed) -> list[SiteFile]:
    """The site's file and those that it stands on, the most general one last; ``read`` makes one of its text."""
    found = [read(*_found(site))]
    while (base := found[-1].base) is not None:
        sources = [file.source for file in found]
        try:
            following = read(*_found(base, but=sources))
        except ConfigError as error:
            raise ConfigError(f"{sources[-1]}: base: {error}") from error
        if following.source in sources:
            raise ConfigError(f"{sources[-1]}: base: {base!r} leads back to this file; name another site")
        found.append(following)
    return found


def site_text(option: str | None = None) -> tuple[str, str]:
    """What the file of a site is called, and its text, be it right or wrong.

    Raises:
        ConfigError: There is no such site, or its file cannot be read.
    """
    source, _, text = _found(site_named(option))
    return source, text
