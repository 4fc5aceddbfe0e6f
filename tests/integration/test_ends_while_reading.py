"""A program that ends while a daemon thread of its own reads a staged result does end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import contextlib, hashlib, sys, threading
from pathlib import Path

import h5py, numpy as np

from hpcserve.errors import Cancelled
from hpcserve.staging import hdf5
from hpcserve.wire.messages import Staged, StagedTensor

path, x = Path(sys.argv[1]), np.zeros(10_000_000)
with h5py.File(path, "w") as file:
    file["y"] = x
staged = Staged(str(path), path.stat().st_size, (
    StagedTensor("y", "float64", x.shape, "/y", hashlib.sha256(x).hexdigest()),
))
begun = threading.Event()

def read():
    with contextlib.suppress(Cancelled):
        while True:
            getattr(hdf5, sys.argv[2])(path, staged)
            begun.set()

for _ in range(4):
    threading.Thread(target=read, daemon=True).start()
begun.wait()
sys.exit(3)
"""
WITHIN_S = 60.0


def test_it_ends_while_a_daemon_thread_reads(tmp_path: Path) -> None:
    for read in ("verify", "load"):
        program = [sys.executable, "-c", PROGRAM, str(tmp_path / "r.h5"), read]
        assert subprocess.run(program, check=False, timeout=WITHIN_S).returncode == 3, read
