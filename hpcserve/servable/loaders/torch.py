"""Loader ``torch``: a TorchScript or exported model, or a module that the servable's code makes, with its weights.

What a file may be :mod:`hpcserve.servable.loaders.torch_model` knows. On a GPU of CUDA or ROCm a method launches its
call: see :mod:`hpcserve.servable.loaders.torch_overlap`. Everywhere it runs in ``torch.inference_mode``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.api import Context
from hpcserve.servable.loaders.entry import module_file, target_of
from hpcserve.servable.manifest import Manifest, MethodSpec
from hpcserve.servable.paths import inside

if TYPE_CHECKING:
    from hpcserve.servable.loaded import Loaded, Method
    from hpcserve.servable.loaders.torch_model import Compute
    from hpcserve.servable.loaders.torch_overlap import Cuda

EXPORTED = ".pt2"
DTYPES = frozenset(
    ["bool", "bfloat16", "complex64", "complex128"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + [f"float{bits}" for bits in (16, 32, 64)]
)


class TorchLoader:
    """Loads a torch model."""

    def check(self, manifest: Manifest, directory: Path) -> None:
        """Files and methods are there, and what the methods declare a tensor of torch can hold."""
        _check_files(manifest, directory)
        if not manifest.methods:
            raise ManifestError("methods: the torch loader needs at least one, such as [methods.predict]")
        for name, spec in manifest.methods.items():
            _check_method(name, spec)
        if manifest.torch.cuda_graphs:
            _check_graphs(manifest)

    def discover(self, manifest: Manifest, directory: Path) -> dict[str, MethodSpec]:
        """Imports torch, and the entry's module; the model is loaded when a replica starts."""
        imported()
        if manifest.entry is not None:
            target_of(manifest, directory)
        return dict(manifest.methods)

    def load(self, manifest: Manifest, context: Context) -> Loaded:
        """Loads the model, moves it to its device and, where that is wanted, compiles and records it."""
        from hpcserve.servable.loaded import Loaded  # with numpy, which the daemon's checks need not have
        from hpcserve.servable.loaders.torch_model import computes, loaded_model

        began_s = time.monotonic()
        torch = imported()
        import_s = time.monotonic() - began_s
        self.check(manifest, context.directory)
        device = device_of(torch, manifest)
        model = loaded_model(torch, manifest, context.directory, device)
        found = computes(torch, manifest, model)
        if device.type == "cuda":
            from hpcserve.servable.loaders.torch_overlap import Cuda

            return Loaded(launching(torch, manifest, found, Cuda(torch, device)), import_s=import_s)
        return Loaded(_running(torch, manifest, found, device), import_s=import_s)


def imported() -> Any:
    """The package torch.

    Raises:
        ServableError: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ServableError(
            f"the torch loader needs {error.name}, which is not installed; pip install 'hpcserve[torch]'"
        ) from error
    return torch


def device_of(torch: Any, manifest: Manifest) -> Any:
    """The ``torch.device`` on which the model runs.

    Raises:
        ServableError: It is not here; with ``auto``, where the manifest asks for a GPU.
    """
    settings = manifest.torch
    if settings.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        _check_may_do_without(torch, manifest)
        return torch.device("cpu")
    try:
        device = torch.device(settings.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        told = str(error).partition("\n")[0]
        raise ServableError(
            f'torch.device = "{settings.device}": torch {torch.__version__} cannot use it here: {told}; deploy on '
            'nodes with such a device, or use device = "auto"'
        ) from error
    return device


def _check_may_do_without(torch: Any, manifest: Manifest) -> None:
    """A CPU that computes in place of a GPU is slow, and nobody would be told."""
    if manifest.ranks.gpus_per_rank:
        asked = f"ranks.gpus_per_rank = {manifest.ranks.gpus_per_rank}"
    elif manifest.torch.cuda_graphs:
        asked = "torch.cuda_graphs = true"
    else:
        return
    cuda, hip = torch.version.cuda, getattr(torch.version, "hip", None)
    if hip or cuda:
        build = f"for {'ROCm' if hip else 'CUDA'} {hip or cuda}"
        hint = "see whether the node's driver is as new as that"
    else:
        build = "without GPUs"
        hint = "have the servable's environment bring a torch that is built for the node's"
    raise ServableError(
        f"{asked}, and torch {torch.__version__}, which is built {build}, sees no GPU here: {hint}, or take the "
        "setting out of the manifest to compute on the CPU"
    )


def _check_files(manifest: Manifest, directory: Path) -> None:
    if manifest.entry is not None:
        module_file(manifest, directory)
    elif manifest.file is None:
        raise ManifestError(
            'file: the torch loader needs file = "model.pt" (TorchScript) or "model.pt2" (torch.export), or '
            'entry = "module:make" with the state dict as its file'
        )
    if manifest.file is not None:
        inside(directory, manifest.file, "file")
        suffix = Path(manifest.file).suffix
        if manifest.entry is None and suffix == ".safetensors":
            raise ManifestError(f'file: {manifest.file!r} holds weights only: entry = "module:make" makes the module')
        if manifest.entry is not None and suffix == EXPORTED:
            raise ManifestError(f"file: {manifest.file!r} is a whole model: leave out entry")
        if suffix == EXPORTED and manifest.torch.dtype:
            raise ManifestError(f"torch.dtype: {manifest.file!r} computes in what it was exported with; export it anew")
        if manifest.entry is None and suffix != EXPORTED and manifest.torch.compile is not False:
            raise ManifestError(f"torch.compile: {manifest.file!r} is TorchScript, which cannot be compiled again")


def _check_method(name: str, spec: MethodSpec) -> None:
    if spec.parameters:
        raise ManifestError(f'methods.{name}: parameters: a model takes none; use loader = "python" to write code')
    if spec.stream:
        raise ManifestError(f"methods.{name}: stream: a model returns all at once")
    if spec.launches:
        raise ManifestError(f"methods.{name}: launches: leave it out; on a GPU a model's calls are launched anyway")
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.dtype not in DTYPES:
            raise ManifestError(f"methods.{name}: {tensor.name!r}: torch has no tensors of {tensor.dtype}")


def _check_graphs(manifest: Manifest) -> None:
    recorded = {name: spec for name, spec in manifest.methods.items() if spec.batching.preferred_batch_sizes}
    if not recorded:
        raise ManifestError("torch.cuda_graphs: needs a method with batching.preferred_batch_sizes: those are recorded")
    for name, spec in recorded.items():
        for tensor in spec.inputs:
            if -1 in tensor.shape[1:]:
                raise ManifestError(
                    f"torch.cuda_graphs: methods.{name}: input {tensor.name!r} has axes of any length; a recorded "
                    "batch needs their lengths, all but the first"
                )


def _running(torch: Any, manifest: Manifest, found: Mapping[str, Compute], device: Any) -> dict[str, Method]:
    """Methods that return when they have computed."""
    from hpcserve.servable.loaded import Method
    from hpcserve.servable.loaders.torch_arrays import to_array, to_tensor

    def caller(compute: Compute) -> Callable[[Mapping[str, Any], Mapping[str, Any]], object]:
        def call(inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> object:
            with torch.inference_mode():
                outputs = compute({name: to_tensor(torch, array).to(device) for name, array in inputs.items()})
                return {name: to_array(torch, each.cpu()) for name, each in outputs.items()}

        return call

    return {name: Method(manifest.methods[name], caller(compute)) for name, compute in found.items()}


def launching(torch: Any, manifest: Manifest, found: Mapping[str, Compute], cuda: Cuda) -> dict[str, Method]:
    """Methods whose calls are launched on a GPU; where graphs are wanted, these are recorded now."""
    from hpcserve.servable.loaded import Method
    from hpcserve.servable.loaders.torch_graphs import recorded
    from hpcserve.servable.loaders.torch_overlap import Overlap

    overlap = Overlap(torch, cuda)
    methods = {}
    for name, compute in found.items():
        spec = manifest.methods[name]
        run = recorded(torch, overlap, spec, compute) if manifest.torch.cuda_graphs else compute
        methods[name] = Method(msgspec.structs.replace(spec, launches=True), overlap.launching(run))
    return methods
