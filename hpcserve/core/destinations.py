"""Where a result is to go: ``globus://COLLECTION/PATH``. Pure.

A path that ends with ``/`` is a directory, in which the file keeps its name; any other is the file's own.
"""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from hpcserve.core.delivery import End
from hpcserve.core.spelling import has_controls, shortened
from hpcserve.errors import InvalidInput

LONGEST = 4096
LONGEST_NAME_BYTES = 255
"""No common file system has longer ones: ``NAME_MAX`` of Linux."""
RESULT = ".h5"
"""How the name of a result's file ends."""
_HEX = frozenset("0123456789abcdef")


def destination(uri: str, name: str) -> End:
    """The end of a transfer that ``uri`` means for a file of this name.

    Raises:
        InvalidInput: It is none.
    """
    told = f"to={shortened(str(uri))}"
    if not isinstance(uri, str):
        raise InvalidInput(f"{told}: expected text, globus://COLLECTION/DIRECTORY/")
    if len(uri) > LONGEST:
        raise InvalidInput(f"{told}: longer than {LONGEST} characters")
    if has_controls(uri):
        raise InvalidInput(f"{told}: a control character, as a newline or a tab, is in it; give the path without it")
    try:
        split = urlsplit(uri)
    except ValueError as error:
        raise InvalidInput(f"{told}: {error}") from error
    if split.scheme != "globus" or not is_uuid(split.netloc.lower()):
        raise InvalidInput(f"{told}: expected globus://COLLECTION/DIRECTORY/, COLLECTION being the collection's UUID")
    if split.query or split.fragment:
        raise InvalidInput(f"{told}: a ? in a path is written %3F, a # %23")
    path = unquote(split.path) or "/"
    if ".." in path.split("/") or not path.isprintable():
        raise InvalidInput(
            f"{told}: the path goes up by '..', or has what cannot be printed in it; give the path itself"
        )
    names = path.split("/")
    if "." in names or "" in names[1:-1]:
        raise InvalidInput(f"{told}: a directory of the path is '.' or has no name; leave it out")
    if any(len(each.encode()) > LONGEST_NAME_BYTES for each in names):
        raise InvalidInput(f"{told}: a name of more than {LONGEST_NAME_BYTES} bytes is in it; choose a shorter one")
    return End(split.netloc.lower(), f"{path}{name}" if path.endswith("/") else path)


def covers(uri: str, file: str, end: End) -> bool:
    """Whether whoever named this place has named that end: the file, or in the directory what a result is called.

    Nothing that lies deeper, or is hidden, and no other file than a result is meant by a directory.

    Args:
        uri: The destination, as it was given.
        file: The file that is to go there, by its path.
        end: Where it would be.

    Raises:
        InvalidInput: ``uri`` is no destination.
    """
    name = file.rpartition("/")[2]
    names_directory = destination(uri, "").path.endswith("/")
    is_result = name.endswith(RESULT) and not name.startswith(".")
    return end == destination(uri, name) and (is_result or not names_directory)


def directory(uri: str | None) -> str | None:
    """A destination for any number of files, as it is; None: there is none.

    Raises:
        InvalidInput: It is none.
    """
    if uri is None:
        return None
    if not destination(uri, "").path.endswith("/"):
        raise InvalidInput(f"to={shortened(uri)}: many results are to go there; let it end with a slash")
    return uri


def unfit(uri: str, found: str) -> str:
    """Why no file can come there, and what to do; empty: one may.

    Args:
        uri: The destination, as it was given.
        found: What is there: ``file``, ``dir`` or another word of Globus's; empty: nothing.
    """
    names_directory = destination(uri, "").path.endswith("/")
    if found == "dir" and not names_directory:
        return f"to={shortened(uri)}: a directory is there; let it end with a slash: {uri}/"
    if found == "file" and names_directory:
        return f"to={shortened(uri)}: a file is there, and no directory; choose another one"
    return ""


def uri_of(end: End) -> str:
    """The URI of a file on a collection."""
    return f"globus://{end.collection}/{quote(end.path.lstrip('/'))}"


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in lower case, as ids of Globus are."""
    parts = text.split("-")
    return [len(each) for each in parts] == [8, 4, 4, 4, 12] and all(_HEX.issuperset(each) for each in parts)
