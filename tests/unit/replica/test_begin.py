"""What rank 0 tells the others when they begin."""

from __future__ import annotations

from typing import cast

import msgspec
from zmq.utils import z85

from hpcserve import __version__
from hpcserve.replica.mpi import World
from hpcserve.replica.ranks import begin
from hpcserve.wire.frames import decoder
from hpcserve.wire.launch import ReplicaStart, decode_start
from hpcserve.wire.ranks import Begin

SECRET = b"v" * 32
SOFTWARE = f"hpcserve {__version__}"


class Others:
    """Ranks that are told something."""

    size = 4

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def tell_all(self, message: bytes) -> None:
        self.told.append(message)


def test_the_others_are_told_all_but_the_secret_key() -> None:
    start = ReplicaStart(
        replica="r-1",
        deployment="d",
        version="v1",
        servable="/somewhere",
        manifest="{}",
        record="/service.json",
        public_key=b"p" * 32,
        secret_key=SECRET,
        outbox_bytes=1,
        hang_grace_s=1.0,
        software=SOFTWARE,
    )
    others = Others()
    begin(cast("World", others), start)
    (message,) = others.told
    assert decode_start(decoder(Begin)(message).start, SOFTWARE) == msgspec.structs.replace(start, secret_key=b"")
    for form in (SECRET, z85.encode(SECRET), msgspec.json.encode(SECRET).strip(b'"'), SECRET.hex().encode()):
        assert form not in message
