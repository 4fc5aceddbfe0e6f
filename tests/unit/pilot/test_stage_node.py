"""Which of the nodes of a plan a process that brings an image takes its own for, by the names that schedulers tell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve.pilot.stageplan import Plan, decode_told, encode_plan

SHORT = socket.gethostname().partition(".")[0]


@pytest.mark.parametrize(
    ("nodes", "slurms", "expected"),
    [
        (("other", SHORT), "", SHORT),
        (("other.hsn.cm", f"{SHORT}.hsn.cm"), "", f"{SHORT}.hsn.cm"),
        (("n1", "n2", SHORT), "n2", "n2"),
    ],
)
def test_a_node_finds_itself_with_or_without_a_domain(
    tmp_path: Path, nodes: tuple[str, ...], slurms: str, expected: str
) -> None:
    plan = Plan(pilot="p", nodes=nodes, directory=str(tmp_path), limit_bytes=1, remove=("0" * 64,))
    more = {"SLURMD_NODENAME": slurms} if slurms else {}
    environment = {name: value for name, value in os.environ.items() if name != "SLURMD_NODENAME"} | more
    command = [sys.executable, "-m", "hpcserve.pilot.stage", encode_plan(plan)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert decode_told(done.stdout).node == expected
