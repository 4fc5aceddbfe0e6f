"""Which paths of the site a caller's words may lead to. Pure: it looks at no file.

A path comes in by a reference, ``file:/PATH#/DATASET`` or ``globus://COLLECTION/PATH#/DATASET``; a site maps its file
systems to collections, and here each is turned into the other. What is found here to be allowed is allowed by its
*name*: a symbolic link can still lead elsewhere, so whoever opens the file looks where it really is.

In mode ``personal`` a caller may name what lies below the site's roots, and staged results. In mode ``service`` all
callers share one user id, so each may name what lies below a directory of its own, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from hpcserve.core.spelling import has_controls, shortened
from hpcserve.errors import InvalidInput, PermissionDenied

Kind = Literal["mapped", "guest", "personal"]
LONGEST = 4096
"""Most characters of a URI, and of a path: what Linux can open."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@.-")
_LONGEST_NAME = 128


class Collection(NamedTuple):
    """A collection of the site: what lies at ``/PATH`` in it lies at ``PREFIX/PATH`` on the site."""

    id: str
    prefix: str
    kind: Kind
    https: bool = False


class Located(NamedTuple):
    """A reference on the site: the file's path, and the path of the data set in it, or empty."""

    path: str
    dataset: str

    @property
    def uri(self) -> str:
        """The same as one word; both are whole paths."""
        return f"{quote(self.path)}#{quote(self.dataset)}"


def located(uri: str, collections: Sequence[Collection] = ()) -> Located:
    """Where a reference leads to on the site.

    Raises:
        InvalidInput: It is no reference, or names a collection that the site does not have.
    """
    told = shortened(uri)
    if len(uri) > LONGEST or "\0" in unquote(uri):
        raise InvalidInput(f"reference {told}: longer than {LONGEST} characters, or with a NUL; give a path")
    if has_controls(uri):
        raise InvalidInput(f"reference {told}: a control character is in it; one of a path's own is written %0A, %09")
    try:
        split = urlsplit(uri)
    except ValueError as error:
        raise InvalidInput(f"reference {told}: {error}") from error
    path, dataset = unquote(split.path), unquote(split.fragment)
    if split.scheme == "globus":
        path = _on_site(split.netloc, path, collections, told)
    elif split.scheme != "file" or split.netloc not in ("", "localhost"):
        raise InvalidInput(f"reference {told}: expected file:/PATH#/DATASET or globus://COLLECTION/PATH#/DATASET")
    if split.query:
        raise InvalidInput(f"reference {told}: a ? in a path is written %3F, a # %23")
    return Located(checked(path, f"reference {told}"), dataset)


def of_word(word: str) -> Located:
    """The :attr:`Located.uri` back."""
    path, _, dataset = word.partition("#")
    return Located(unquote(path), unquote(dataset))


def checked(path: str, what: str) -> str:
    """A whole path without detours.

    Raises:
        InvalidInput: It is relative, or has ``..`` in it.
    """
    if not path.startswith("/"):
        raise InvalidInput(f"{what}: the path {path!r} is relative; give the whole path on the site")
    if ".." in path.split("/"):
        raise InvalidInput(f"{what}: the path {path!r} goes up by '..'; give the path itself")
    return "/" + "/".join(each for each in path.split("/") if each not in ("", "."))


def is_below(path: str, root: str) -> bool:
    """Whether ``path`` is ``root`` or lies in it; both without detours."""
    root = root.rstrip("/")
    return path == root or path.startswith(f"{root}/")


def check_below(path: str, roots: Sequence[str], what: str) -> None:
    """Whether a path lies where its caller may name it.

    Raises:
        PermissionDenied: It does not.
    """
    if not any(is_below(path, root) for root in roots):
        allowed = ", ".join(roots) or "none: the site lists no staging.roots"
        raise PermissionDenied(f"{what}: {path} is outside of what you may name here ({allowed})")


def caller_directory(name: str) -> str:
    """The name of a caller's own directory: the caller's, where it can be one, else written so that it can.

    Two callers never have the same.
    """
    if name and len(name) <= _LONGEST_NAME and not name.startswith(".") and _PLAIN.issuperset(name):
        return name
    return "%" + "".join(each if each.isascii() and each.isalnum() else f"%{ord(each):x}." for each in name)


def roots_of(caller: str, directory: str, roots: Sequence[str], *, service: bool) -> tuple[str, ...]:
    """The directories below which a caller may name files.

    Args:
        caller: The name of the caller's own directory.
        directory: Where staged results are.
        roots: What the site lists.
        service: Whether the site's mode is ``service``.
    """
    return (f"{directory}/{caller}",) if service else (*roots, directory)


def globus_uri(path: str, collections: Sequence[Collection]) -> str | None:
    """The URI of a site's path on the collection that is nearest to it; None where it is on none."""
    covering = [each for each in collections if is_below(path, each.prefix)]
    if not covering:
        return None
    nearest = max(covering, key=lambda each: len(each.prefix.rstrip("/")))
    return f"globus://{nearest.id}/{quote(path[len(nearest.prefix.rstrip('/')) :].lstrip('/'))}"


def _on_site(id: str, path: str, collections: Sequence[Collection], told: str) -> str:
    known = next((each for each in collections if each.id == id), None)
    if known is None:
        listed = ", ".join(each.id for each in collections) or "none"
        raise InvalidInput(f"reference {told}: no such collection on this site; it has: {listed}")
    inside = checked(path or "/", f"reference {told}")
    return f"{known.prefix.rstrip('/')}{inside}"
