"""A pilot serves as soon as its agent and then its replica have imported what they need: they import nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {"asyncio", "importlib.metadata", "jinja2", "sqlalchemy", "tomllib", "typer", "zmq.asyncio"}


@pytest.mark.parametrize(
    ("module", "others"), [("hpcserve.pilot.__main__", {"numpy", "ml_dtypes"}), ("hpcserve.replica.__main__", set())]
)
def test_nothing_slow_is_imported_before_a_pilot_serves(module: str, others: set[str]) -> None:
    program = f"import sys, {module}; print(*(set({sorted(SLOW | others)!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
