"""What the daemon's processes import: each of them starts again when it was killed, and all are on a login node."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = frozenset(["jinja2", "numpy", "sklearn", "sqlalchemy", "zmq"])


@pytest.mark.parametrize(
    ("process", "needs"),
    [
        ("hpcserve.daemon", {"zmq"}),
        ("hpcserve.daemon.broker", {"zmq"}),
        ("hpcserve.daemon.controller", {"jinja2", "sqlalchemy", "zmq"}),
        ("hpcserve.daemon.admission", {"zmq"}),
        ("hpcserve.pilot", {"zmq"}),
    ],
)
def test_a_process_imports_what_it_needs(process: str, needs: set[str]) -> None:
    """No process of the daemon looks into an array, and a servable is checked without loading it."""
    program = f"import sys, {process}.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY & set(done.stdout.split()) == needs
