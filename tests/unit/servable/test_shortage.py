"""Which errors tell of a lack of memory, by what libraries were seen to say."""

from __future__ import annotations

import pytest

from hpcserve.servable.shortage import ends_in_shortage, is_shortage

ACCELERATOR = """CUDA error: out of memory
Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""  # noqa: E501 - torch's own lines
SHORTAGES = [
    ("MemoryError", ""),
    ("_ArrayMemoryError", "Unable to allocate 9 TiB for an array"),
    ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB."),
    ("AcceleratorError", ACCELERATOR),
    ("RuntimeError", "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    ("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("RuntimeError", "CUDA driver error: out of memory"),
    ("AcceleratorError", "HIP error: out of memory"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ("RuntimeError", "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ("RuntimeError", "cuFFT error: CUFFT_ALLOC_FAILED"),
    ("RuntimeError", "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    ("DistBackendError", "NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    ("CUDARuntimeError", "cudaErrorMemoryAllocation: out of memory"),
    ("CUDADriverError", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ("RuntimeError", "[enforce fail at alloc_cpu.cpp:131] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ("JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 80000000000 bytes."),
    ("RuntimeException", "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer"),
]
OTHERS = [
    ("ValueError", "the model of the patient is out of memory loss drugs"),
    ("AcceleratorError", "CUDA error: an illegal memory access was encountered"),
    ("AcceleratorError", "CUDA error: invalid configuration argument"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ("NotAMemoryError", ""),
]


@pytest.mark.parametrize(("name", "told"), SHORTAGES)
def test_a_lack_of_memory_is_known_by_its_class_or_its_words(name: str, told: str) -> None:
    assert is_shortage(name, told)
    for before in ("", "Traceback (most recent call last):\n  File 'a.py', line 1\n", "ValueError: earlier\n"):
        assert ends_in_shortage(f"{before}some.module.{name}: {told}")
        assert ends_in_shortage(f"{before}setup failed: {name}: {told}")


@pytest.mark.parametrize(("name", "told"), OTHERS)
def test_other_errors_are_not_taken_for_one(name: str, told: str) -> None:
    assert not is_shortage(name, told)
    assert not ends_in_shortage(f"MemoryError\nsome.module.{name}: {told}")


@pytest.mark.parametrize("text", ["", "log", "all is well\nit was no CUDA error: out of memory"])
def test_without_an_error_there_is_none(text: str) -> None:
    assert not ends_in_shortage(text)
