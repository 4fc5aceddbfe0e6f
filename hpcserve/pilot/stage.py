"""``python -m hpcserve.pilot.stage PLAN``: copies an image to the node on which it runs, or with its like to several.

Started by an agent, once on each node; one line of its standard output says what became of it there.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from hpcserve.cluster.hostlist import named
from hpcserve.errors import HpcserveError, ManifestError
from hpcserve.pilot import broadcast
from hpcserve.pilot.nodecopies import NodeCopies, Writer, pieces
from hpcserve.pilot.stageplan import Plan, Told, decode_plan, encode_told


def main() -> int:
    """Carries the plan out."""
    plan = decode_plan(sys.argv[1])
    node = _node(plan)
    if plan.remove:
        told = _removed(plan, node)
    elif len(plan.nodes) == 1:
        told = _alone(plan, node)
    else:
        told = _together(plan, node)
    sys.stdout.buffer.write(encode_told(told))
    sys.stdout.buffer.flush()
    return 0


def _node(plan: Plan) -> str:
    """Which of the plan's nodes this is."""
    if len(plan.nodes) == 1:
        return plan.nodes[0]
    host = socket.gethostname()
    names = (os.environ.get("SLURMD_NODENAME", host), host, host.partition(".")[0])
    exactly = next((name for name in names if name in plan.nodes), None)
    # PBS tells nodes by names with a domain, which their own host names may lack.
    return exactly or next(iter(named(plan.nodes, names)), host)


def _copies(plan: Plan) -> NodeCopies:
    return NodeCopies(Path(plan.directory), plan.limit_bytes, plan.pilot)


def _removed(plan: Plan, node: str) -> Told:
    try:
        copies = _copies(plan)
        with copies.locked():
            return Told(node=node, outcome="shared", removed=copies.remove(plan.remove))
    except (OSError, HpcserveError) as error:
        return Told(node=node, outcome="shared", why=_words(error))


def _alone(plan: Plan, node: str, *, alone: str = "") -> Told:
    """This node reads the image itself."""
    removed: tuple[str, ...] = ()
    try:
        copies = _copies(plan)
        if not copies.holds(plan.sha256, plan.size_bytes):
            with copies.locked():
                # Another one may have copied it while this one waited.
                if not copies.holds(plan.sha256, plan.size_bytes):
                    removed = copies.make_room(plan.size_bytes, plan.using)
                    with copies.writing(plan.sha256) as writer:
                        for piece in pieces(plan.image, sha256=plan.sha256, size_bytes=plan.size_bytes):
                            writer.write(piece)
                        writer.whole = True
        path = str(copies.path(plan.sha256))
        return Told(node=node, outcome="staged", path=path, removed=removed, alone=alone)
    except ManifestError as error:
        return Told(node=node, outcome="refused", why=error.message, removed=removed, alone=alone)
    except (OSError, HpcserveError) as error:
        return Told(node=node, outcome="shared", why=_words(error), removed=removed, alone=alone)


def _together(plan: Plan, node: str) -> Told:
    """One node reads the image, for all."""
    try:
        comm = broadcast.world(len(plan.nodes))
    except HpcserveError as error:
        return _alone(plan, node, alone=error.message)
    reader = broadcast.first_of(comm, is_reader=node == plan.nodes[0])
    with ExitStack() as stack:
        share = _Share(plan, node, stack)
        if broadcast.anyone(comm, wants=share.wants):
            group = broadcast.takers(comm, reads=comm.Get_rank() == reader, wants=share.wants)
            if group is not None:
                share.take(group)
    # Where another pilot was at work on the node: now it is done, or has left it to us.
    return share.told or _alone(plan, node)


class _Share:
    """What one node does of it, and what became of it, once that is known."""

    def __init__(self, plan: Plan, node: str, stack: ExitStack) -> None:
        self._plan = plan
        self._node = node
        self._stack = stack
        self._removed: tuple[str, ...] = ()
        self._writer: Writer | None = None
        self._copies: NodeCopies | None = None
        self.told: Told | None = None
        try:
            self._begin()
        except (OSError, HpcserveError) as error:
            self.told = self._tell("shared", _words(error))

    @property
    def wants(self) -> bool:
        """Whether the image is to come here."""
        return self._writer is not None

    def take(self, group: broadcast.Group) -> None:
        """Reads the image for the others, or gets it from the one that does."""
        try:
            if group.Get_rank() == 0:
                broadcast.send(group, self._read())
            else:
                self._get(group)
            if self._writer is not None:
                self._writer.whole = True
                self._stack.close()  # now it has its name
                self.told = self._tell("staged")
        except ManifestError as error:
            self.told = self._tell("refused", error.message)
        except (OSError, HpcserveError) as error:
            self.told = self._tell("shared", _words(error))

    def _begin(self) -> None:
        plan = self._plan
        copies = _copies(plan)
        self._copies = copies
        if copies.holds(plan.sha256, plan.size_bytes):
            self.told = self._tell("staged")
        elif self._stack.enter_context(copies.locked(wait=False)):
            self._removed = copies.make_room(plan.size_bytes, plan.using)
            self._writer = self._stack.enter_context(copies.writing(plan.sha256))

    def _get(self, group: broadcast.Group) -> None:
        digest = hashlib.sha256()

        def take(piece: bytearray) -> None:
            assert self._writer is not None, "it takes part because it wants it"
            digest.update(piece)
            self._writer.write(piece)

        broadcast.receive(group, take)
        if digest.hexdigest() != self._plan.sha256:
            raise HpcserveError("what arrived over the network is not what was sent")

    def _read(self) -> Iterator[bytes]:
        """The pieces for the others, which are kept here too if that is wanted."""
        for piece in self._source():
            if self._writer is not None:
                try:
                    self._writer.write(piece)
                except OSError as error:  # the others need what comes nevertheless
                    self.told = self._tell("shared", _words(error))
                    self._writer = None
            yield piece

    def _source(self) -> Iterator[bytes]:
        """From a copy of this node's own, if it has one: then nobody reads from the shared file system."""
        plan, copies = self._plan, self._copies
        if copies is None or not copies.holds(plan.sha256, plan.size_bytes):
            yield from pieces(plan.image, sha256=plan.sha256, size_bytes=plan.size_bytes)
        else:
            yield from copies.pieces(plan.sha256, plan.size_bytes)

    def _tell(self, outcome: str, why: str = "") -> Told:
        path = str(self._copies.path(self._plan.sha256)) if outcome == "staged" and self._copies is not None else ""
        return Told(node=self._node, outcome=outcome, path=path, why=why, removed=self._removed)  # type: ignore[arg-type]


def _words(error: OSError | HpcserveError) -> str:
    if isinstance(error, HpcserveError):
        return error.message
    return f"{error.filename or 'its copy'}: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
