"""Which errors of GPUs are sticky."""

from __future__ import annotations

import pytest

from hpcserve.errors import ServableError
from hpcserve.replica.broken import DeviceBroken, check_device

HINT = "\nCUDA kernel errors might be asynchronously reported at some other API call\nFor debugging consider passing …"


def failure(told: str) -> ServableError:
    """As a loaded servable raises it."""
    error = ServableError("method 'run' failed")
    error.__cause__ = RuntimeError(told)
    return error


# Those after which CUDA computes nothing more in the same process: what torch says after "CUDA error: ", the
# runtime's name and the driver's.
STICKY = [
    ("an illegal memory access was encountered", "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS"),
    ("an illegal instruction was encountered", "cudaErrorIllegalInstruction", "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    ("misaligned address", "cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    ("hardware stack error", "cudaErrorHardwareStackError", "CUDA_ERROR_HARDWARE_STACK_ERROR"),
    ("invalid program counter", "cudaErrorInvalidPc", "CUDA_ERROR_INVALID_PC"),
    ("unspecified launch failure", "cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED"),
    ("device-side assert triggered", "cudaErrorAssert", "CUDA_ERROR_ASSERT"),
    ("the launch timed out and was terminated", "cudaErrorLaunchTimeout", "CUDA_ERROR_LAUNCH_TIMEOUT"),
    ("uncorrectable ECC error encountered", "cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    (
        "uncorrectable NVLink error detected during the execution",
        "cudaErrorNvlinkUncorrectable",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    ),
    (
        "operation not supported on global/shared address space",
        "cudaErrorInvalidAddressSpace",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    ),
    (
        "Invalid access of peer GPU memory over nvlink or a hardware error",
        "cudaErrorContained",
        "CUDA_ERROR_CONTAINED",
    ),
    ("tensor memory not completely freed", "cudaErrorTensorMemoryLeak", "CUDA_ERROR_TENSOR_MEMORY_LEAK"),
    (
        "the remote procedural call between the MPS server and the MPS client failed",
        "cudaErrorMpsRpcFailure",
        "CUDA_ERROR_MPS_RPC_FAILURE",
    ),
    (
        "the MPS client has been terminated by the server",
        "cudaErrorMpsClientTerminated",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    ),
    (
        "an async error has occured in external entity outside of CUDA",
        "cudaErrorExternalDevice",
        "CUDA_ERROR_EXTERNAL_DEVICE",
    ),
    ("unknown error", "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN"),
]


@pytest.mark.parametrize(("text", "runtime", "driver"), STICKY)
def test_every_way_to_tell_a_sticky_error_is_known(text: str, runtime: str, driver: str) -> None:
    for told in (
        f"CUDA error: {text}{HINT}",
        f"CUDA driver error: {text}",
        f"CUDA failure 9: {text} ; GPU=0 ; hostname=node1 ; expr=cudaMemcpy",
        f"{runtime}: {text}",
        f"{driver}: {text}",
        f"INTERNAL: {driver}",
        runtime,
    ):
        with pytest.raises(DeviceBroken):
            check_device(failure(told))
    check_device(failure(f"the servable says: {text}"))


@pytest.mark.parametrize(
    "told",
    [
        f"CUDA error: an illegal memory access was encountered{HINT}",
        f"CUDA error: device-side assert triggered{HINT}",
        "CUDA error: unspecified launch failure",
        "CUDA error: misaligned address",
        "CUDA error: uncorrectable ECC error encountered",
        "HIP error: an illegal memory access was encountered",
        "cudaErrorIllegalAddress: an illegal memory access was encountered",
        "cudaErrorAssert",
        "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
        "INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=node1 ; expr=cudaMemcpy",
    ],
)
def test_sticky_errors(told: str) -> None:
    with pytest.raises(DeviceBroken) as broken:
        check_device(failure(told))
    assert str(broken.value) == f"RuntimeError: {told.partition(HINT)[0]}"


def test_what_an_error_came_from_counts() -> None:
    outer = ServableError("method 'run' failed")
    outer.__cause__ = failure("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceBroken):
        check_device(outer)


def test_a_ring_of_errors_is_left() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    error = ServableError("failed")
    error.__cause__ = first
    check_device(error)


@pytest.mark.parametrize(
    "told",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "CUDA error: invalid configuration argument",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: invalid device ordinal",
        "CUDA error: out of memory; what the model did before is an unknown error",
        "cudaErrorUnknownSymbol",
        "CUDA error: MPS server is not ready to accept new MPS client requests",
        "the request asks for an illegal memory access",
        "an illegal instruction was given to the robot",
        "",
    ],
)
def test_other_errors_leave_the_device_as_it_was(told: str) -> None:
    check_device(failure(told))
    check_device(ServableError(told))
