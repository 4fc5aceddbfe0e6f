"""``python -m hpcserve.servable.inspect DIRECTORY``: which methods does this servable have?

Runs in the servable's own interpreter, since it imports the servable's code. The manifest comes as JSON
on standard input; the answer, an :class:`Inspected` as one line of JSON, goes to standard output, and
whatever the servable prints goes to standard error. Calls no ``setup`` and no method.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from hpcserve.errors import HpcserveError
from hpcserve.servable.lifetime import die_with_parent
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Manifest, from_json


class Inspected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole ``manifest``, or why there is none."""

    manifest: Manifest | None = None
    message: str = ""
    traceback: str = ""


def inspected(manifest_json: bytes, directory: Path) -> Inspected:
    """The manifest with the methods that the code declares, or the error that prevents it."""
    from hpcserve.servable.warmup import check  # with numpy, which the daemon, who reads the answer, need not have

    try:
        manifest = from_json(manifest_json)
        loader = loader_named(manifest.loader)
        loader.check(manifest, directory)
        found = msgspec.structs.replace(manifest, methods=loader.discover(manifest, directory))
        check(found, directory)
    except HpcserveError as error:
        return Inspected(message=error.message, traceback=error.remote_traceback or "")
    return Inspected(manifest=found)


def main(arguments: list[str]) -> None:
    """Reads, inspects, answers; ends the process at once, whatever threads the servable has started."""
    if len(arguments) != 1:
        sys.exit("usage: python -m hpcserve.servable.inspect DIRECTORY < manifest.json")
    die_with_parent()
    sys.dont_write_bytecode = True
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    answer = inspected(sys.stdin.buffer.read(), Path(arguments[0]))
    with open(answer_fd, "wb") as out:
        out.write(msgspec.json.encode(answer) + b"\n")
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):  # the servable may have closed it, or nobody reads it any more
            if stream is not None:
                stream.flush()
    os._exit(0 if answer.manifest is not None else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
