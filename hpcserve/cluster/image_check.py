"""What an image has beside its Python: which MPI, which libraries of GPUs, and whether a driver fits them. Pure.

The image is asked by :mod:`hpcserve.cluster.images`; here are the question and what the answer means.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hpcserve.cluster.finding import Finding

# For any Python that an image may have. MPI_Get_library_version may be called before MPI_Init (MPI 3.1, §8.1.1); so may
# the functions of CUDA and HIP that tell a version, and that of CUDA which looks for a driver. HIP has none: only
# hipInit tells whether the driver will do. Source: the HIP Runtime API, "Initialization"; AMD's driver is at
# /dev/kfd, and tells its own version, where it is not the kernel's, in /sys/module/amdgpu/version.
PROBE = r"""
import ctypes, glob, json, os, sys

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
kfd = ""
if os.path.exists("/dev/kfd"):
    kfd = "open" if os.access("/dev/kfd", os.R_OK | os.W_OK) else "closed"
amdgpu = ""
if os.path.exists("/sys/module/amdgpu/version"):
    with open("/sys/module/amdgpu/version") as file:
        amdgpu = file.read().strip()
print(json.dumps({
    "mpi": said.value.decode(errors="replace").strip().split("\n")[0],
    "cuda": version(cuda, "cudaRuntimeGetVersion"),
    "cuda_driver": version(library("libcuda.so.1"), "cuDriverGetVersion"),
    "hip": version(hip, "hipRuntimeGetVersion"),
    "hip_error": hip.hipInit(0) if hip is not None and kfd == "open" else 0,
    "kfd": kfd,
    "amdgpu": amdgpu,
}))
"""


_NO_DEVICE = 100  # hipErrorNoDevice. Source: the HIP Runtime API, hipError_t
_FAMILIES = {"mpich": "MPICH", "openmpi": "Open MPI"}


class Libraries(msgspec.Struct, frozen=True, kw_only=True):
    """What an image has. A version is a number as its library tells it, and 0 where there is none.

    ``mpi``: the first line of what its MPI calls itself, or empty. ``hip_error``: what HIP answers that is to begin, 0
    if it can or was not asked. ``kfd``: whether AMD's driver is ``open`` to this user, ``closed``, or not there; and
    ``amdgpu`` its version, if it tells one.
    """

    mpi: str
    cuda: int
    cuda_driver: int
    hip: int
    hip_error: int = 0
    kfd: str = ""
    amdgpu: str = ""


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
    yield _nvidia(found.cuda, found.cuda_driver, wanted=gpu == "nv")
    yield _rocm(found, wanted=gpu == "rocm")


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


def _nvidia(runtime: int, driver: int, *, wanted: bool) -> Finding:
    has = f"the image has {_cuda(runtime)}"
    told = _unused("CUDA", has if runtime else "", driver=driver > 0, setting="" if wanted else "nv")
    if told is not None:
        return told
    if runtime // 1000 > driver // 1000:
        newest = _cuda(driver)
        return Finding(
            "CUDA", "failed", f"{has}, and this host's driver runs {newest}: make it with {newest} or earlier"
        )
    return Finding("CUDA", "ok", has)


def _rocm(found: Libraries, *, wanted: bool) -> Finding:
    has = f"the image has ROCm {found.hip // 10_000_000}.{found.hip // 100_000 % 100}"
    told = _unused("ROCm", has if found.hip else "", driver=bool(found.kfd), setting="" if wanted else "rocm")
    if told is not None:
        return told
    driver = f"this host's driver (amdgpu {found.amdgpu or 'of its kernel'})"
    if found.kfd == "closed":
        why = f"{has}, and you may not open /dev/kfd of {driver}: ask for its group, render or video"
        return Finding("ROCm", "failed", why)
    if found.hip_error == _NO_DEVICE:
        return Finding("ROCm", "skipped", f"{has}; {driver} shows no GPU: try on a compute node")
    if found.hip_error:
        why = f"{has}, which does not begin with {driver}: HIP's error {found.hip_error}; make it with the ROCm of that"
        return Finding("ROCm", "failed", f"{why} driver")
    return Finding("ROCm", "ok", f"{has}, and begins with {driver}")


def _unused(name: str, has: str, *, driver: bool, setting: str) -> Finding | None:
    """What is to be said where an image's libraries meet no driver; None where they do.

    Args:
        name: Of the libraries.
        has: Which ones the image has, in words; empty: none.
        driver: Whether this host has one.
        setting: The site would have to set ``containers.gpu`` to it; empty: it has.
    """
    if not has:
        return Finding(name, "skipped", "none in the image")
    if setting:
        return Finding(name, "warning", f"{has}, and containers see no such GPU: set containers.gpu = {setting!r}")
    if not driver:
        return Finding(name, "skipped", f"{has}; this host has no driver to compare it with: try on a compute node")
    return None


def _cuda(number: int) -> str:
    """Source: the CUDA Runtime API: 1000 times the major version, and ten times the minor one."""
    return f"CUDA {number // 1000}.{number % 1000 // 10}"
