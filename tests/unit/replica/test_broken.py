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
        "the request asks for an illegal memory access",
        "an illegal instruction was given to the robot",
        "",
    ],
)
def test_other_errors_leave_the_device_as_it_was(told: str) -> None:
    check_device(failure(told))
    check_device(ServableError(told))
