"""``python -m benchmarks NAME [--json] [--pairs N] [--quick]``, where NAME is one of NAMES, or ``all`` of them.

``pilots``, ``scaling``, ``ssh`` and ``container`` are not among those: the first two need root, and Slurm's packages,
for a cluster of their own; the third one OpenSSH's server, the last one Apptainer. They use what the tests have for it.

``gpu`` measures nothing, and says why, where torch sees no GPU.

``python -m benchmarks plot`` draws the figures of the documentation from the results in ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import (
    auth,
    batching,
    figures,
    footprint,
    gpu,
    overload,
    ranks,
    roundtrip,
    scaling,
    staging,
    startup,
    streams,
)
from benchmarks.machine import measured

NAMES = ("roundtrip", "footprint", "startup", "batching", "overload", "streams", "ranks", "gpu", "staging", "auth")
ON_SLURM = ("pilots", "scaling")
BY_SSH = "ssh"
IN_CONTAINERS = "container"


def main() -> int:
    """Runs what is named, and prints what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures hpcserve on this machine.")
    parser.add_argument("name", choices=(*NAMES, *ON_SLURM, BY_SSH, IN_CONTAINERS, "all", "plot"))
    parser.add_argument("--json", action="store_true", help="one JSON object on one line, instead of indented")
    parser.add_argument("--device", default="auto", help="gpu: as torch names it; on the CPU the models are small ones")
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs, where there are some (20)")
    parser.add_argument("--repetitions", type=int, default=10, help="startup: counted starts (10)")
    parser.add_argument(
        "--quick", action="store_true", help="a few messages only: does it run? The numbers mean nothing"
    )
    parser.add_argument("--results", type=Path, default=figures.RESULTS, help="plot: where the results are")
    parser.add_argument("--figures", type=Path, default=figures.FIGURES, help="plot: where the figures go")
    options = parser.parse_args()
    if options.name == "plot":
        print(*figures.write(options.results, options.figures), sep="\n")
        return 0
    run = _quick(options.device) if options.quick else _real(options.pairs, options.repetitions, options.device)
    names = NAMES if options.name == "all" else (options.name,)
    results = {
        name: measured(name, [each for each in sys.argv[1:] if each != options.name], run[name]) for name in names
    }
    result: dict[str, Any] = results if options.name == "all" else results[options.name]
    print(json.dumps(result, indent=None if options.json else 2))
    return 0


def _real(pairs: int, repetitions: int, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "roundtrip": lambda: roundtrip.run(pairs=pairs),
        "footprint": footprint.run,
        "startup": lambda: startup.run(repetitions=repetitions),
        "batching": batching.run,
        "overload": overload.run,
        "streams": streams.run,
        "gpu": lambda: gpu.run(pairs=pairs, device=device, small=device == "cpu"),
        "ranks": lambda: ranks.run(pairs=pairs),
        "auth": lambda: auth.run(pairs=pairs),
        "staging": lambda: staging.run(pairs=pairs),
        "scaling": scaling.run,
        "pilots": lambda: _pilots().run(),
        BY_SSH: lambda: _ssh().run(pairs=pairs),
        IN_CONTAINERS: lambda: _container().run(pairs=pairs),
    }


def _quick(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "roundtrip": lambda: roundtrip.run(pairs=2, n=20, large_n=1),
        "footprint": lambda: footprint.run(replicas=2, sessions=3, idle_s=0.1, warm_up=20, requests=100),
        "startup": lambda: startup.run(repetitions=1),
        "batching": lambda: batching.run(seconds=0.5, repetitions=1, calls=5, cases=(batching.Case(5.0, 1.0, 80.0),)),
        "overload": lambda: overload.run(seconds=2.0, calm_s=1.5, urgent_s=2.0),
        "streams": lambda: streams.run(items=500, repetitions=2, firsts=3),
        "gpu": lambda: gpu.run(pairs=1, seconds=0.5, device=device, small=True),
        "staging": lambda: staging.run(pairs=1, size_bytes=8 << 20, sparse_bytes=64 << 20),
        "ranks": lambda: ranks.run(pairs=2, size_mb=2),
        "auth": lambda: auth.run(pairs=1, n=100, clients=20, people=(1, 20)),
        "scaling": lambda: scaling.run(days=1, longer_s=(), kinds=("commands",), offsets_s=(0.0,), starts=0, moves=0),
        "pilots": lambda: _pilots().run(starts=1, drain_s=2.0, losses=1, pairs=1, jobs=100, side_s=0.5),
        BY_SSH: lambda: _ssh().run(pairs=2, n=20, large_n=1, starts=1),
        IN_CONTAINERS: lambda: _container().run(pairs=1),
    }


def _pilots() -> ModuleType:
    """Its cluster is that of the tests, which need packages that the other benchmarks do without."""
    from benchmarks import pilots

    return pilots


def _ssh() -> ModuleType:
    """Its sshd is that of the tests, too."""
    from benchmarks import ssh

    return ssh


def _container() -> ModuleType:
    """Its image is that of the tests."""
    from benchmarks import container

    return container


if __name__ == "__main__":
    sys.exit(main())
