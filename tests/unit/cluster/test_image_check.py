"""What an image's libraries mean for a site."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from hpcserve.cluster.image_check import PROBE, Libraries, libraries, unfit_for_ranks

HIP = 60342134
NOTHING = Libraries(mpi="", cuda=0, cuda_driver=0, hip=0)


@pytest.mark.parametrize(
    ("has", "gpu", "told"),
    [
        ({"mpi": "Open MPI v4.1.4, package: Debian"}, "", "ok MPI: Open MPI (Open MPI v4.1.4, package: Debian)"),
        ({"mpi": "MPICH Version:      4.3.1"}, "", "ok MPI: MPICH (MPICH Version:      4.3.1)"),
        ({"mpi": "CRAY MPICH version 8.1.28"}, "", "ok MPI: MPICH (CRAY MPICH version 8.1.28)"),
        ({}, "", "skipped MPI: none in the image"),
        ({"cuda": 12040}, "", "warning CUDA: the image has CUDA 12.4, and containers see no such GPU: set"),
        ({"cuda": 12040}, "nv", "skipped CUDA: the image has CUDA 12.4; this host has no driver"),
        ({"cuda": 12040, "cuda_driver": 12020}, "nv", "ok CUDA: the image has CUDA 12.4"),
        (
            {"cuda": 13000, "cuda_driver": 12020},
            "nv",
            "failed CUDA: the image has CUDA 13.0, and this host's driver runs",
        ),
        ({"cuda": 12040, "cuda_driver": 13000}, "nv", "ok CUDA: the image has CUDA 12.4"),
        ({"hip": HIP}, "", "warning ROCm: the image has ROCm 6.3, and containers see no such GPU: set"),
        ({"hip": HIP}, "rocm", "skipped ROCm: the image has ROCm 6.3; this host has no driver"),
        (
            {"hip": HIP, "kfd": "closed", "amdgpu": "6.10.5"},
            "rocm",
            "failed ROCm: the image has ROCm 6.3, and you may not open /dev/kfd of this host's driver (amdgpu 6.10.5)",
        ),
        (
            {"hip": HIP, "kfd": "open", "amdgpu": "5.16.9", "hip_error": 35},
            "rocm",
            "failed ROCm: the image has ROCm 6.3, which does not begin with this host's driver (amdgpu 5.16.9): HIP's",
        ),
        (
            {"hip": HIP, "kfd": "open", "hip_error": 100},
            "rocm",
            "skipped ROCm: the image has ROCm 6.3; this host's driver (amdgpu of its kernel) shows no GPU",
        ),
        (
            {"hip": HIP, "kfd": "open", "amdgpu": "6.10.5"},
            "rocm",
            "ok ROCm: the image has ROCm 6.3, and begins with this host's driver (amdgpu 6.10.5)",
        ),
    ],
)
def test_what_is_found_is_told(has: dict[str, object], gpu: str, told: str) -> None:
    found = msgspec.structs.replace(NOTHING, **has)
    lines = [f"{each.outcome} {each.subject}: {each.told}" for each in libraries(found, gpu)]
    assert len(lines) == 3
    assert any(line.startswith(told) for line in lines), lines


@pytest.mark.parametrize(
    ("mpi", "family", "told"),
    [
        ("MPICH Version:      4.3.1", "mpich", ""),
        ("MPICH Version:      4.3.1", "", ""),
        ("CRAY MPICH version 8.1.28", "mpich", ""),
        ("Open MPI v4.1.4", "openmpi", ""),
        (
            "Open MPI v4.1.4",
            "mpich",
            "its MPI is Open MPI (Open MPI v4.1.4), and this site starts ranks by MPICH: each",
        ),
        (
            "MPICH Version: 4.3",
            "openmpi",
            "its MPI is MPICH (MPICH Version: 4.3), and this site starts ranks by Open MPI",
        ),
        (
            "",
            "openmpi",
            'there is no MPI in it, and none is bound into it: build it with environment.build.base = "open',
        ),
        ("", "", 'there is no MPI in it, and none is bound into it: build it with environment.build.base = "mpich"'),
    ],
)
def test_ranks_need_an_mpi_of_the_site_s_family(mpi: str, family: str, told: str) -> None:
    found = msgspec.structs.replace(NOTHING, mpi=mpi)
    assert unfit_for_ranks(found, family).startswith(told)
    assert bool(unfit_for_ranks(found, family)) == bool(told)
    (first, *_) = libraries(found, "", family, ranks=True)
    assert (first.outcome == "failed") == bool(told)
    (first, *_) = libraries(found, "", family)
    assert (first.outcome == "skipped") == (not mpi)


def test_the_question_runs_in_any_python() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == set(Libraries.__struct_fields__)
