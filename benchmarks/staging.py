"""A large result written to HDF5 as a replica writes it, beside bare h5py with the same settings on the same disk.

Each writes in a process of its own, one after the other, so that the memory of one is not another's; a file counts as
written when it is on the disk (fsync). ``smooth`` data compress well, ``noise`` hardly; ``noise, plain`` is not
compressed by either, and there is no promise of it: hashing alone takes as long. What is written at last is 20 GB that
never were in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ratios import summary

CASES = {"smooth": "gzip", "noise": "gzip", "noise, plain": "none"}
LEAST, MOST_OVER_MB = 0.9, 200.0
SIDES = ("bare", "hpcserve")
_CHILD = """
import json, os, resource, sys, time
import numpy as np, h5py
from hpcserve.replica import hdf5
side, kind, compression, size, path = sys.argv[1:]
count = int(size) // 4
if kind == "sparse":
    array = np.broadcast_to(np.zeros(1 << 20, np.float32), (count >> 20, 1 << 20))
elif kind == "smooth":
    array = np.sin(np.arange(count, dtype=np.float32) / 1000)
else:
    array = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # the highest resident size, set back to that of now: see proc(5)
status = lambda name: int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) / 1024
before = status("VmRSS")
began = time.perf_counter()
chunk = hdf5.chunk_shape(array.shape, 4, 1 << 20)
if side == "bare":
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}
    with h5py.File(path, "w") as file:
        file.create_dataset("y", data=array, chunks=chunk, **options)
else:
    hdf5.write(path, hdf5.tensors_of({"y": array}), {}, chunk_bytes=1 << 20, compress=compression == "gzip")
descriptor = os.open(path, os.O_RDONLY)
os.fsync(descriptor)
took = time.perf_counter() - began
print(json.dumps({"s": took, "over_mb": status("VmHWM") - before, "file_mb": os.stat(path).st_size / 1e6}))
"""


def run(*, pairs: int, size_bytes: int = 1 << 30, sparse_bytes: int = 20 << 30) -> dict[str, Any]:
    """Measures.

    Args:
        pairs: How many of each kind, after none that warms up.
        size_bytes: Of the result.
        sparse_bytes: Of the one that is never in memory.
    """
    found: dict[str, Any] = {"size_mb": round(size_bytes / 1e6), "mb_per_s": {}, "file_mb": {}, "over_mb": {}}
    intervals = {}
    range(pairs)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # /tmp may be memory
        for case, compression in CASES.items():
            told = [
                {side: _written(place, side, case, compression, size_bytes) for side in SIDES} for _ in range(pairs)
            ]
            for what in ("mb_per_s", "file_mb", "over_mb"):
                found[what][case] = {side: round(median(each[side][what] for each in told), 1) for side in SIDES}
            intervals[case] = summary([each["bare"]["s"] / each["hpcserve"]["s"] for each in told])
        sparse = _written(place, "hpcserve", "sparse", "gzip", sparse_bytes)
    over_mb = max(sparse["over_mb"], *(each["hpcserve"] for each in found["over_mb"].values()))
    ratio = {case: each["median"] for case, each in intervals.items()}
    least = min(ratio[case] for case, compression in CASES.items() if compression == "gzip")
    reached = {"least_ratio": least >= LEAST, "most_over_mb": over_mb < MOST_OVER_MB}
    return {
        **found,
        "ratio": ratio,
        "least_ratio": least,
        "most_over_mb": round(over_mb, 1),
        "sparse": {"size_mb": round(sparse_bytes / 1e6), **{name: round(each, 1) for name, each in sparse.items()}},
        "intervals": {"ratio": intervals},
        "targets": {"least_ratio": f">= {LEAST:g}", "most_over_mb": f"< {MOST_OVER_MB:g}"},
        "reached": reached,
    }


def _written(place: str, side: str, case: str, compression: str, size_bytes: int) -> dict[str, float]:
    path = Path(place) / "y.h5"
    words = [side, case.partition(",")[0], compression, str(size_bytes), str(path)]
    done = subprocess.run([sys.executable, "-c", _CHILD, *words], check=True, stdout=subprocess.PIPE)
    path.unlink()
    told: dict[str, float] = json.loads(done.stdout)
    return {**told, "mb_per_s": size_bytes / 1e6 / told["s"]}
