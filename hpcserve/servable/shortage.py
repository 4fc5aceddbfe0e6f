"""Whether an error tells of a lack of memory: by the name of its class, or by its words. Pure.

Python, numpy and torch's own allocator have classes for it. What a library beneath them could not get is told by
errors of any class: all that CUDA and HIP refuse is an AcceleratorError since torch 2.8, and a RuntimeError before.
"""

from __future__ import annotations

import re

_NAMES = frozenset(("MemoryError", "OutOfMemoryError", "_ArrayMemoryError"))
"""The exceptions of Python, of torch and CuPy, and of numpy by name: to import torch only for that would be dear."""
# Source: cudaError, CUresult and hipError_t; the status codes of cuBLAS, cuSOLVER, hipBLAS, cuDNN 8 and 9, cuFFT,
# rocBLAS and MIOpen; NCCL's "Cuda failure 2 'out of memory'"; what torch 2.8 to 2.13 says on a CPU; XLA's and ONNX
# Runtime's arenas.
_SAYS = re.compile(
    r"\b(CUDA|Cuda|HIP) (driver )?(error|failure)( \d+)?:? '?out of memory|\bCUDA out of memory\b|\bHIP out of memory\b"
    r"|\b(cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|hipErrorOutOfMemory)\b"
    r"|\b[A-Z]+_STATUS_ALLOC_FAILED\b|\bCUDNN_STATUS_\w*ALLOCATION_FAILED\b|\bCUFFT_ALLOC_FAILED\b"
    r"|\brocblas_status_memory_error\b|\bmiopenStatusAllocFailed\b"
    r"|DefaultCPUAllocator: (can't allocate|not enough) memory|\bRESOURCE_EXHAUSTED: Out of memory\b"
    r"|\bFailed to allocate memory for requested buffer\b"
)
# How Python ends a traceback, and we the cause of a failed setup.
_HEADLINE = re.compile(r"(.* failed: )?([\w.]+\.)?(?P<name>\w*(Error|Exception|Fail))(: |:?$)")
_LOOKED_AT = 4096  # characters of a message


def is_shortage(name: str, told: str) -> bool:
    """Whether an error is one of memory.

    Args:
        name: That of its class, without the module's.
        told: Its message.
    """
    return name in _NAMES or _SAYS.search(told[:_LOOKED_AT]) is not None


def ends_in_shortage(text: str) -> bool:
    """Whether the last error of which a text tells is one of memory; its message may have several lines."""
    lines = text.strip().splitlines()
    for index in reversed(range(len(lines))):
        headline = _HEADLINE.match(lines[index])
        if headline is not None:
            return is_shortage(headline["name"], "\n".join(lines[index:]))
    return False
