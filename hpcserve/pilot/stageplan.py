"""What an agent tells the processes that copy an image to nodes, and what each of them answers: a line of JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

STAGE_MODULE = "hpcserve.pilot.stage"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be on each of the nodes.

    ``image`` is the file on the shared file system, of which the servable was published with this ``sha256`` and size;
    of several ``nodes`` the first one reads it. ``directory`` is the site's ``stage_dir``, in which all copies may have
    ``limit_bytes``; ``using`` names by their sha256 the images that the agent's replicas run from, and ``pilot`` is its
    pilot's, which marks what it wants. ``remove``: these copies are to go, and nothing is copied.
    """

    pilot: str
    nodes: tuple[str, ...]
    directory: str
    limit_bytes: int
    image: str = ""
    sha256: str = ""
    size_bytes: int = 0
    using: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it on one node.

    ``staged``: its copy is at ``path``. ``shared``: there is none, and ``why``. ``refused``: the image is not the
    published one. ``removed``: the sha256 of copies that had to go. ``alone``: why the nodes could not do it together.
    """

    node: str
    outcome: Literal["staged", "shared", "refused"]
    path: str = ""
    why: str = ""
    removed: tuple[str, ...] = ()
    alone: str = ""


def encode_plan(plan: Plan) -> str:
    """The plan as a word of a command line."""
    return msgspec.json.encode(plan).decode()


def decode_plan(text: str) -> Plan:
    """The plan of such a word.

    Raises:
        msgspec.MsgspecError: It is something else.
    """
    return msgspec.json.decode(text, type=Plan)


def encode_told(told: Told) -> bytes:
    """The answer as a line."""
    return msgspec.json.encode(told) + b"\n"


def decode_told(line: bytes) -> Told:
    """The answer of such a line.

    Raises:
        msgspec.MsgspecError: It is something else.
    """
    return msgspec.json.decode(line, type=Told)
