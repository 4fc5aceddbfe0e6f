"""Samples a second of torch models through daemon and replica, beside a bare torch loop at its best batch size.

The bare loop copies a batch to the device, runs the model in ``torch.inference_mode`` and copies the answer back, one
batch after the other: what one would write without a service. A sweep finds the batch size that it is fastest at. Then
it takes turns with requests of a quarter of that size through hpcserve, on the same device, of which enough are
outstanding for four batches. Weights and inputs are random.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.ratios import summary
from benchmarks.service import Service, running
from hpcserve.client.sync import Client

NETS = Path(__file__).with_name("torch_nets.py")
LEAST = 0.95
PARTS = 4
BATCHES_OUTSTANDING = 4


class Case(NamedTuple):
    """A model: the function that makes it, one sample's input and output, and the batch sizes to try."""

    name: str
    make: str
    shape: tuple[int, ...]
    dtype: str
    outputs: int
    sizes: tuple[int, ...]

    def manifest(self, device: str) -> str:
        """The servable's."""
        shape = [-1, *self.shape]
        return f"""
name = "{self.name}"
loader = "torch"
entry = "torch_nets:{self.make}"

[methods.predict]
inputs = [{{ name = "x", dtype = "{self.dtype}", shape = {shape} }}]
outputs = [{{ name = "y", dtype = "float32", shape = [-1, {self.outputs}] }}]
batchable = true
batching = {{ max_batch_size = {max(self.sizes)}, preferred_batch_sizes = {list(self.sizes)} }}

[torch]
device = "{device}"

[[warmup]]
"""

    def samples(self, count: int) -> np.ndarray[Any, Any]:
        """Random ones."""
        dice = np.random.default_rng(0)
        if self.dtype == "uint8":
            return dice.integers(0, 256, (count, *self.shape), np.uint8)
        return dice.random((count, *self.shape), np.float32)


CASES = (
    Case("convnet", "convnet", (3, 224, 224), "uint8", 1000, (16, 32, 64, 128, 256)),
    Case("surrogate", "surrogate", (256,), "float32", 64, (256, 1024, 4096, 16384)),
)
SMALL = (
    Case("convnet", "small_convnet", (3, 32, 32), "uint8", 10, (4, 8)),
    Case("surrogate", "small_surrogate", (16,), "float32", 4, (16, 64)),
)


def run(*, pairs: int, seconds: float = 3.0, device: str = "auto", small: bool = False) -> dict[str, Any]:
    """Measures all models, or says why it does not.

    Args:
        pairs: Pairs of each model.
        seconds: The length of each measurement.
        device: As torch names it; ``auto``: a GPU, or nothing is measured.
        small: Models so small that a CPU has no trouble.
    """
    reason = _why_not(device)
    if reason:
        return {"skipped": reason}
    import torch

    where = torch.device("cuda" if device == "auto" else device)
    with running() as service, tempfile.TemporaryDirectory(prefix="hpcserve-bench-") as place:
        cases = {
            case.name: _case(service, _made(case, where, Path(place)), pairs, seconds)
            for case in (SMALL if small else CASES)
        }
    ratio = {f"ratio_{name}": found["ratio"]["median"] for name, found in cases.items()}
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else str(where),
        "torch": torch.__version__,
        **cases,
        **ratio,
        "targets": dict.fromkeys(ratio, f">= {LEAST:g}"),
        "reached": {name: value >= LEAST for name, value in ratio.items()},
    }


def _why_not(device: str) -> str:
    """Why nothing is measured; empty: it is."""
    try:
        import torch
    except ImportError:
        return "torch is not installed: pip install 'hpcserve[torch]'"
    if device in ("auto", "cuda") and not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU here; --device cpu runs small models, to see whether it works"
    return ""


class _Made(NamedTuple):
    """A case and its servable's directory."""

    case: Case
    device: Any
    directory: Path


def _made(case: Case, device: Any, place: Path) -> _Made:
    directory = place / case.name
    directory.mkdir()
    shutil.copy(NETS, directory)
    (directory / "servable.toml").write_text(case.manifest(str(device)))
    return _Made(case, device, directory)


def _case(service: Service, made: _Made, pairs: int, seconds: float) -> dict[str, Any]:
    case, bare = made.case, _Bare(made.case, made.device)
    swept = {size: bare.samples_per_s(size, seconds / 3) for size in case.sizes}
    best = max(swept, key=lambda size: swept[size])
    service.deploy(made.directory, max_batch_size=best)
    with Client(timeout_s=600.0) as client:
        _served(client, case, best, seconds)  # the replica learns how long its batches take
        found = [(_served(client, case, best, seconds), bare.samples_per_s(best, seconds)) for _ in range(pairs)]
    return {
        "bare_sweep_samples_per_s": {str(size): round(rate, 1) for size, rate in swept.items()},
        "best_size": best,
        "samples_per_s": {
            "hpcserve": round(median(served for served, _ in found), 1),
            "bare": round(median(rate for _, rate in found), 1),
        },
        "ratio": summary([served / rate for served, rate in found]),
    }


class _Bare:
    """The loop without a service."""

    def __init__(self, case: Case, device: Any) -> None:
        from benchmarks import torch_nets

        self._case = case
        self._device = device
        self._model = getattr(torch_nets, case.make)().eval().to(device)

    def samples_per_s(self, size: int, seconds: float) -> float:
        """At one batch size."""
        import torch

        batch = torch.from_numpy(self._case.samples(size))
        done = 0
        with torch.inference_mode():
            self._model(batch.to(self._device)).cpu()
            began = time.perf_counter()
            while time.perf_counter() < began + seconds:
                self._model(batch.to(self._device)).cpu()
                done += size
        return done / (time.perf_counter() - began)


def _served(client: Client, case: Case, best: int, seconds: float) -> float:
    """Through daemon and replica."""
    part = max(1, best // PARTS)
    samples = case.samples(part)
    began = time.perf_counter()

    def requests() -> Any:
        while time.perf_counter() < began + seconds:
            yield samples

    in_flight = BATCHES_OUTSTANDING * best // part
    done = sum(part for _ in client.map(f"{case.name}.predict", requests(), in_flight=in_flight))
    return done / (time.perf_counter() - began)
