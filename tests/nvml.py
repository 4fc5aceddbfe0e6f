"""A library that stands in for NVIDIA's, compiled from ``tests/data/nvml``: the real binding calls it."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "data" / "nvml" / "nvml.c"


def build(place: Path) -> Path:
    """Compiles it; returns the directory that ``LD_LIBRARY_PATH`` is to name."""
    command = ["cc", "-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-O1", "-o", "libnvidia-ml.so.1", str(SOURCE)]
    subprocess.run(command, cwd=place, check=True, timeout=60)
    return place
