"""A real process binds itself, by what a made-up sysfs tells of this machine's processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcserve.replica.topology import gpu_addresses, numa_node, processors
from tests import nvml

ALLOWED = sorted(os.sched_getaffinity(0))
HALVES = (frozenset(ALLOWED[: len(ALLOWED) // 2]), frozenset(ALLOWED[len(ALLOWED) // 2 :]))
FIRST, SECOND = "0000:18:00.0", "0000:9b:00.0"
PROGRAM = """
import json, os, sys, threading
from pathlib import Path
resting = threading.Event()
other = threading.Thread(target=resting.wait)
other.start()
from hpcserve.replica.place import take_place
take_place(os.environ, mine=[int(sys.argv[2])], slots=2, wanted=0, bind=sys.argv[3], sysfs=Path(sys.argv[1]))
print(json.dumps({
    "main": sorted(os.sched_getaffinity(0)),
    "other": sorted(os.sched_getaffinity(other.native_id)),
    "threads": os.environ.get("OMP_NUM_THREADS"),
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("ROCR_VISIBLE_DEVICES")),
}))
resting.set()
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Half of this machine's processors on each NUMA node, the first GPU near the second half."""
    root = tmp_path / "sys"
    for number, cpus in enumerate(HALVES):
        write(root / f"devices/system/node/node{number}/cpulist", ",".join(map(str, sorted(cpus))))
    write(root / "devices/system/node/online", "0-1")
    for number, (address, node) in enumerate([(FIRST, 1), (SECOND, 0)]):
        write(root / "bus/pci/devices" / address / "numa_node", str(node))
        render = root / f"class/drm/renderD{129 - number}"
        render.mkdir(parents=True)
        (render / "device").symlink_to(root / "bus/pci/devices" / address)
    return root


def placed(sysfs: Path, slot: int, environment: dict[str, str], bind: str = "numa") -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.endswith(("_DEVICES", "_THREADS"))}
    command = [sys.executable, "-c", PROGRAM, str(sysfs), str(slot), bind]
    ran = subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize(
    ("variable", "names"),
    [("CUDA_VISIBLE_DEVICES", ["GPU-aaaaaaaa-0000", "MIG-cccccccc-2222"]), ("ROCR_VISIBLE_DEVICES", ["0", "1"])],
    ids=["by its driver", "by the kernel"],
)
def test_a_process_and_its_threads_are_bound_near_its_gpu(
    sysfs: Path, tmp_path: Path, variable: str, names: list[str], slot: int
) -> None:
    library = {"LD_LIBRARY_PATH": str(nvml.build(tmp_path))} if variable.startswith("CUDA") else {}
    found = placed(sysfs, slot, {variable: ",".join(names), **library})
    near = HALVES[1 - slot]
    threads = str(len(near))
    assert found == {"main": sorted(near), "other": sorted(near), "threads": threads, "gpus": names[slot]}


def test_threads_that_somebody_has_chosen_stay_as_they_are(sysfs: Path) -> None:
    found = placed(sysfs, 1, {"OMP_NUM_THREADS": "3"})
    assert (found["main"], found["threads"]) == (sorted(HALVES[1]), "3"), "without GPUs, slots are spread"


@pytest.mark.parametrize(("bind", "root"), [("none", ""), ("numa", "nothing here")])
def test_unasked_or_without_knowledge_nothing_is_bound(sysfs: Path, bind: str, root: str) -> None:
    found = placed(sysfs / root, 1, {}, bind)
    assert (found["main"], found["threads"]) == (ALLOWED, None)


def test_what_the_kernel_tells(tmp_path: Path) -> None:
    write(tmp_path / "devices/system/node/node0/cpulist", "0-2,8-9")
    write(tmp_path / "devices/system/node/node1/cpulist", "")
    write(tmp_path / "devices/system/cpu/cpu1/topology/thread_siblings_list", "1,9")
    write(tmp_path / "bus/pci/devices" / FIRST / "numa_node", "-1")
    found = processors({1, 8, 9, 30}, tmp_path)
    assert found.by_node == {0: {1, 8, 9}, 1: frozenset()}
    assert found.siblings == {1: {1, 9}}
    assert [numa_node(address, tmp_path) for address in (FIRST, SECOND, "")] == [None, None, None]
    assert list(gpu_addresses(tmp_path)) == []
