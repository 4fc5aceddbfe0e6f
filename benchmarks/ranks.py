"""What scattering a batch among the ranks of a replica and gathering it again costs, beside bare mpi4py.

Four ranks of one MPI job take turns in both: see :mod:`benchmarks.ranks_job`. All are on this machine's processors.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ratios import summary

RANKS = 4
ROOT = Path(__file__).resolve().parents[1]
MOST = 1.3
PATIENCE_S = 600.0


def run(*, pairs: int, size_mb: int = 64) -> dict[str, Any]:
    """Measures ``pairs`` pairs after a few that warm up, with a batch of so many MB.

    Raises:
        RuntimeError: There is no mpiexec, or the job failed.
    """
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if mpiexec is None:
        raise RuntimeError("no mpiexec here; pip install mpi4py mpich")
    job = [mpiexec, "-n", str(RANKS), sys.executable, "-m", "benchmarks.ranks_job"]
    done = subprocess.run(
        [*job, *map(str, (RANKS, size_mb, pairs))],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the MPI job failed ({done.returncode}): {done.stderr}")
    found: list[dict[str, float]] = json.loads(done.stdout)
    ratio = summary([pair["hpcserve"] / pair["bare"] for pair in found])
    return {
        "ranks": RANKS,
        "batch_mb": size_mb,
        "bare_ms": round(1e3 * median(pair["bare"] for pair in found), 1),
        "hpcserve_ms": round(1e3 * median(pair["hpcserve"] for pair in found), 1),
        "ratio": ratio["median"],
        "intervals": {"ratio": ratio},
        "targets": {"ratio": f"<= {MOST:g}"},
        "reached": {"ratio": ratio["median"] <= MOST},
    }
