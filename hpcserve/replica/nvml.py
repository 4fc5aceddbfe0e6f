"""What NVIDIA's driver says of the GPUs that this process sees: the one file that imports its binding.

Where there is no such driver, or no binding (package nvidia-ml-py, which an image may lack), nothing is said.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from hpcserve.replica.gpus import NAMED_IN, visible
from hpcserve.wire.messages import DeviceUse

_LIBRARY = "libnvidia-ml.so.1"


class Nvml:
    """The driver's library, which is there.

    Args:
        binding: The module.
    """

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    def seen(self, environment: Mapping[str, str]) -> Gpus:
        """Those GPUs that are named; where none is named, all."""
        if any(name in environment for name in NAMED_IN):
            return Gpus(self._binding, self._handles(visible(environment)))
        return Gpus(self._binding, self._handles([str(index) for index in range(self._count())]))

    def address(self, name: str) -> str:
        """Where a GPU is on the PCI bus, as sysfs names it, such as ``0000:18:00.0``; empty where nobody knows."""
        nvml = self._binding
        for handle in self._handles([name]):
            try:
                whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if name.startswith("MIG") else handle
                place = nvml.nvmlDeviceGetPciInfo_v3(whole)
            except nvml.NVMLError:
                return ""
            return f"{place.domain:04x}:{place.bus:02x}:{place.device:02x}.0"
        return ""

    def _count(self) -> int:
        try:
            return int(self._binding.nvmlDeviceGetCount())
        except self._binding.NVMLError:
            return 0

    def _handles(self, names: Sequence[str]) -> list[Any]:
        """Of those that the driver knows."""
        found = (self._handle(name.strip()) for name in names)
        return [each for each in found if each is not None]

    def _handle(self, name: str) -> Any:
        nvml = self._binding
        try:
            if name.isdecimal():
                return nvml.nvmlDeviceGetHandleByIndex(int(name))
            return nvml.nvmlDeviceGetHandleByUUID(name)
        except nvml.NVMLError:
            return None


class Gpus:
    """Some GPUs, whose names do not change.

    Args:
        binding: The module.
        handles: What it knows them by.
    """

    def __init__(self, binding: Any, handles: Sequence[Any]) -> None:
        self._binding = binding
        self._handles = handles

    def __len__(self) -> int:
        return len(self._handles)

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for now. One that is lost is left out."""
        found = (self._read(handle) for handle in self._handles)
        return tuple(each for each in found if each is not None)

    def _read(self, handle: Any) -> DeviceUse | None:
        nvml = self._binding
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            name, id = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        except nvml.NVMLError:
            return None
        try:
            busy = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except nvml.NVMLError:  # a part of a GPU (MIG) has no such figure
            busy = None
        return DeviceUse(name, id, memory.used, memory.total, busy)


def open_nvml() -> Nvml | None:
    """The driver's library, if it and its binding are there and work."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return None  # without a driver, to import the binding would take time for nothing
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return Nvml(pynvml)
