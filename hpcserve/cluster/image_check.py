"""What an image has beside its Python: which MPI, which libraries of GPUs, and whether a driver fits them. Pure.

The image is asked by :mod:`hpcserve.cluster.images`; here are the question and what the answer means.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hpcserve.cluster.site_findings import Finding

# For any Python that an image may have. MPI_Get_library_version may be called before MPI_Init (MPI 3.1, §8.1.1); so may
# the functions of CUDA and HIP that tell a version, and those that look for a driver.
PROBE = r"""
import ctypes, glob, json, sys

def library(*names):
    for name in names:
        for place in [name] + [found for entry in sys.path for found in glob.glob(entry + "/nvidia/*/lib/" + name)]:
            try:
                return ctypes.CDLL(place)
            except OSError:
                pass
    return None

def version(loaded, function):
    number = ctypes.c_int(0)
    if loaded is None or getattr(loaded, function)(ctypes.byref(number)) != 0:
        return 0
    return number.value

said = ctypes.create_string_buffer(8192)
length = ctypes.c_int(0)
mpi = library("libmpi.so.40", "libmpi.so.12", "libmpi_gnu.so.12", "libmpi.so")
if mpi is not None:
    mpi.MPI_Get_library_version(said, ctypes.byref(length))
cuda = library("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
hip = library("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so")
print(json.dumps({
    "mpi": said.value.decode(errors="replace").strip().split("\n")[0],
    "cuda": version(cuda, "cudaRuntimeGetVersion"),
    "cuda_driver": version(library("libcuda.so.1"), "cuDriverGetVersion"),
    "hip": version(hip, "hipRuntimeGetVersion"),
    "hip_driver": version(hip, "hipDriverGetVersion"),
}))
"""


_FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}


class Libraries(msgspec.Struct, frozen=True, kw_only=True):
    """What an image has. A version is a number as its library tells it, and 0 where there is none.

    ``mpi``: the first line of what its MPI calls itself, or empty.
    """

    mpi: str
    cuda: int
    cuda_driver: int
    hip: int
    hip_driver: int


def libraries(found: Libraries, gpu: str, family: str = "", *, ranks: bool = False) -> Iterator[Finding]:
    """What it means for a site.

    Args:
        found: What an image has.
        gpu: The GPUs that containers see there: ``nv``, ``rocm`` or empty.
        family: The MPI with which ranks are started there: ``mpich``, ``openmpi`` or empty, where it does not say.
        ranks: Whether replicas of several ranks are to run in the image.
    """
    told = unfit_for_ranks(found, family)
    if told and (found.mpi or ranks):
        yield Finding("MPI", "failed", told)
    else:
        yield Finding("MPI", "ok", _told(found.mpi)) if found.mpi else Finding("MPI", "skipped", "none in the image")
    yield _gpu("CUDA", found.cuda, found.cuda_driver, wanted=gpu == "nv")
    yield _gpu("ROCm", found.hip, found.hip_driver, wanted=gpu == "rocm")


def unfit_for_ranks(found: Libraries, family: str) -> str:
    """Why replicas of several ranks cannot run in an image; empty where they can.

    Args:
        found: What it has.
        family: The MPI with which the site starts ranks: ``mpich``, ``openmpi`` or empty, where it does not say.
    """
    if not found.mpi:
        return (
            "there is no MPI in it, and none is bound into it: build it with environment.build.base = "
            f'"{family or "mpich"}", or have the site bind its own'
        )
    if family and _family(found.mpi) != family:
        return (
            f"its MPI is {_told(found.mpi)}, and this site starts ranks by {_FAMILIES[family]}: each would be rank 0 "
            f'of 1; build it with environment.build.base = "{family}"'
        )
    return ""


def _family(told: str) -> str:
    """Two of one family work together; host and image must be of one."""
    lowered = told.lower()
    if "open mpi" in lowered:
        return "openmpi"
    return "mpich" if any(name in lowered for name in ("mpich", "intel", "cray", "mvapich")) else ""


def _told(mpi: str) -> str:
    name = _FAMILIES.get(_family(mpi))
    return f"{name} ({mpi})" if name else mpi


def _gpu(name: str, runtime: int, driver: int, *, wanted: bool) -> Finding:
    if not runtime:
        return Finding(name, "skipped", "none in the image")
    has = f"the image has {_cuda(runtime) if name == 'CUDA' else runtime}"
    if not wanted:
        setting = "nv" if name == "CUDA" else "rocm"
        return Finding(name, "warning", f"{has}, and containers see no such GPU: set containers.gpu = {setting!r}")
    if not driver:
        return Finding(name, "skipped", f"{has}; this host has no driver to compare it with: try on a compute node")
    if name == "CUDA" and runtime // 1000 > driver // 1000:
        told = f"{has}, and this host's driver runs {_cuda(driver)}: make the image with {_cuda(driver)} or earlier"
        return Finding(name, "failed", told)
    return Finding(name, "ok", has)


def _cuda(number: int) -> str:
    """Source: the CUDA Runtime API: 1000 times the major version, and ten times the minor one."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"
