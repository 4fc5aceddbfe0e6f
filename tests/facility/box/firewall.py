"""A real firewall on the login node of a box: what comes from compute nodes is dropped or rejected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN

Verdict = Literal["drop", "reject with icmpx admin-prohibited", "reject with tcp reset"]
"""Source: nft(8), VERDICT STATEMENT and REJECT STATEMENT."""

NEW = "tcp flags & (syn | ack) == syn"
"""What the login node itself began gets its answers, at ports of any number."""


class Firewall:
    """The rules of one test. Ports are those of the login node, such as ``40000-40005``."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def stop(self, ports: str, verdict: Verdict) -> None:
        """From now on this becomes of each new connection to these ports, and of nothing else."""
        self.clear()
        for command in (
            "add table inet wall",
            "add chain inet wall input { type filter hook input priority 0; policy accept; }",
            f"add rule inet wall input iifname switch tcp dport {{ {ports} }} {NEW} {verdict}",
        ):
            self._box.run(LOGIN, ["nft", command])

    def clear(self) -> None:
        """Everything passes."""
        self._box.run(LOGIN, ["nft", "add table inet wall; delete table inet wall"])


@contextmanager
def firewall(box: Box) -> Iterator[Firewall]:
    """One that is gone after the block."""
    made = Firewall(box)
    try:
        yield made
    finally:
        made.clear()
