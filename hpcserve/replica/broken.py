"""Errors after which a GPU is of no use to this process any more: only a new one can compute on it again.

CUDA and HIP call them sticky: every call after such an error fails with it. So nobody's requests may be judged by what
follows. The replica ends itself, at once, as if it had crashed: what it computed is run again elsewhere, each request
alone, and it shows which of them does that.

Other errors, such as a lack of memory or a kernel that cannot be launched, leave the GPU as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpcserve.errors import HpcserveError

EXIT_BROKEN = 4
"""The exit code of a replica that can compute no more."""

# How libraries begin what CUDA or HIP said: torch and JAX, CuPy, ONNX Runtime and CUDA's own samples.
_FROM_DEVICE = re.compile(
    r"\b(CUDA|HIP) (driver )?(error|failure)\b|\b(cuda|hip)Error\w+|\bCUDA_ERROR_\w+|\bCUDNN_STATUS_"
)
# Source: the CUDA Runtime API, cudaError: those that leave the process "in an inconsistent state", or after which it
# "must be terminated and relaunched", by their texts (with their misspellings) and the ends of their names, which HIP
# shares. "unknown error" is what a GPU that has fallen off its bus gives.
_STICKY = re.compile(
    r"illegal memory access|illegal instruction|misaligned address|hardware stack error|invalid program counter"
    r"|unspecified launch failure|device-side assert|launch timed out|uncorrectable (ECC|NVLink) error"
    r"|operation not supported on global/shared address space|Invalid access of peer GPU memory"
    r"|tensor memory not completely freed|MPS client has been terminated"
    r"|remote procedural call between the MPS server and the MPS client failed"
    r"|async error has occurr?ed in (a device|external entity) outside of CUDA"
    r"|\b(error|failure)( \d+)?: unknown error"
    r"|Error(IllegalAddress|IllegalInstruction|MisalignedAddress|HardwareStackError|InvalidPc|LaunchFailure|Assert"
    r"|LaunchTimeout|LaunchTimeOut|ECCUncorrectable|ECCNotCorrectable|NvlinkUncorrectable|InvalidAddressSpace|Contained"
    r"|TensorMemoryLeak|MpsRpcFailure|MpsClientTerminated|ExternalDevice|Unknown)\b"
    r"|ERROR_(ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|HARDWARE_STACK_ERROR|INVALID_PC|LAUNCH_FAILED"
    r"|ASSERT|LAUNCH_TIMEOUT|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|INVALID_ADDRESS_SPACE|CONTAINED"
    r"|TENSOR_MEMORY_LEAK|MPS_RPC_FAILURE|MPS_CLIENT_TERMINATED|EXTERNAL_DEVICE|UNKNOWN)\b"
)
_LOOKED_AT = 4096  # characters of a message
_DEPTH = 8  # so many errors that came from one another; a servable may make a ring of them


class DeviceBroken(Exception):
    """The replica cannot compute any more. Not an answer to anybody: it ends the process."""


def check_device(error: HpcserveError) -> None:
    """Looks at what a servable failed with, and at what that came from.

    Raises:
        DeviceBroken: It is sticky.
    """
    for fault in origins(error):
        told = str(fault)[:_LOOKED_AT]
        if _FROM_DEVICE.search(told) and _STICKY.search(told):
            raise DeviceBroken(f"{type(fault).__name__}: {told.strip().partition(chr(10))[0]}") from fault


def origins(error: BaseException) -> Iterator[BaseException]:
    """What an error came from, the nearest first."""
    for _ in range(_DEPTH):
        origin = error.__cause__ or error.__context__
        if origin is None:
            return
        yield origin
        error = origin
