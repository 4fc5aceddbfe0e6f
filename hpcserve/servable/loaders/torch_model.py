"""Which file is which kind of model, and how a model's methods are called.

Files of weights are read without running a pickle's code (``weights_only``). TorchScript and exported models are
programs: they are trusted as the servable's code is.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcserve.core.spelling import nearest
from hpcserve.errors import InvalidOutput, ManifestError, ServableError
from hpcserve.servable.loaders.entry import run_step, target_of
from hpcserve.servable.loaders.torch import EXPORTED
from hpcserve.servable.manifest import Manifest, MethodSpec
from hpcserve.servable.paths import inside
from hpcserve.servable.tracebacks import headline, servable_traceback

Tensors = Mapping[str, Any]
Compute = Callable[[Tensors], dict[str, Any]]
"""A method on the device: tensors by the names of its inputs to tensors by those of its outputs."""


def loaded_model(torch: Any, manifest: Manifest, directory: Path, device: Any) -> Any:
    """The module on its device, ready for inference.

    Raises:
        ManifestError: ``entry`` makes no module.
        ServableError: The code failed, or the file cannot be loaded.
    """
    path = None if manifest.file is None else inside(directory, manifest.file, "file")
    if manifest.entry is not None:
        model = _made(torch, manifest, directory)
        if path is not None:
            _load_weights(torch, model, path)
    else:
        assert path is not None, "it was checked"
        model = _loaded(path, lambda: _read(torch, path, device))
    dtype = getattr(torch, manifest.torch.dtype) if manifest.torch.dtype else None
    if path is None or path.suffix != EXPORTED:  # what was exported has its mode and its dtypes
        model.eval()
        model = model.to(device) if dtype is None else model.to(device, dtype)
    return model


def computes(torch: Any, manifest: Manifest, model: Any) -> dict[str, Compute]:
    """Each declared method of a model, compiled where that is wanted.

    Raises:
        ManifestError: The model has no such method.
    """
    return {name: _compute(torch, manifest, model, name, spec) for name, spec in manifest.methods.items()}


def _made(torch: Any, manifest: Manifest, directory: Path) -> Any:
    make = target_of(manifest, directory)
    name = str(manifest.entry).partition(":")[2]
    model = run_step(f"{name}()", make)
    if not isinstance(model, torch.nn.Module):
        raise ManifestError(f"entry: {manifest.entry!r} made a {type(model).__name__}, not a torch.nn.Module")
    return model


def _load_weights(torch: Any, model: Any, path: Path) -> None:
    weights = _loaded(path, lambda: _weights(torch, path))
    if not isinstance(weights, Mapping):
        raise ServableError(f"{path.name} holds a {type(weights).__name__}: save model.state_dict()")
    try:
        model.load_state_dict(weights)
    except Exception as error:
        raise ServableError(
            f"{path.name} does not fit the module that entry makes: {error}", remote_traceback=servable_traceback(error)
        ) from error


def _weights(torch: Any, path: Path) -> Any:
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file  # type: ignore[import-not-found]  # seldom there, and no extra of ours
    except ImportError as error:
        raise ServableError(
            f"{path.name} needs {error.name}, which is not installed: pip install safetensors"
        ) from error
    return load_file(path)


def _read(torch: Any, path: Path, device: Any) -> Any:
    if path.suffix == EXPORTED:
        program = torch.export.load(path)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch 2.9 and later: a model of today need not change
        return torch.jit.load(path, map_location=device)


def _loaded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ServableError:
        raise
    except BaseException as error:
        raise ServableError(
            f"cannot load {path.name}: {headline(error)}", remote_traceback=servable_traceback(error)
        ) from error


def _compute(torch: Any, manifest: Manifest, model: Any, name: str, spec: MethodSpec) -> Compute:
    function = _function(torch, manifest, model, name)
    arguments = _arguments(function)
    names = _ordered([tensor.name for tensor in spec.inputs], arguments)
    by_name = arguments[: len(names)] != names and set(names) <= set(arguments)
    settings = manifest.torch
    if settings.compile is not False:
        backend = "inductor" if settings.compile is True else settings.compile
        function = torch.compile(function, backend=backend)
    dtype = getattr(torch, settings.dtype) if settings.dtype else None
    declared = {tensor.name: getattr(torch, tensor.dtype) for tensor in spec.outputs}

    def compute(inputs: Tensors) -> dict[str, Any]:
        given = {each: inputs[each] if dtype is None else _cast(inputs[each], dtype) for each in names}
        answer = function(**given) if by_name else function(*given.values())
        outputs = _outputs(torch, name, spec, answer)
        if dtype is None:
            return outputs
        return {each: _cast(tensor, declared[each]) for each, tensor in outputs.items()}

    return compute


def _cast(tensor: Any, dtype: Any) -> Any:
    return tensor.to(dtype) if tensor.is_floating_point() and dtype.is_floating_point else tensor


def _function(torch: Any, manifest: Manifest, model: Any, name: str) -> Callable[..., Any]:
    """The model's own method of this name; the model itself for ``forward``, and where there is one method only."""
    own = [each for each in dir(model) if not each.startswith("_") and each not in dir(torch.jit.ScriptModule)]
    if name in own and callable(getattr(model, name)):
        function: Callable[..., Any] = getattr(model, name)
        return function
    if name == "forward" or len(manifest.methods) == 1:
        whole: Callable[..., Any] = model
        return whole
    raise ManifestError(f"methods.{name}: {type(model).__name__} has no method {name!r}{nearest(name, own)}")


def _ordered(names: list[str], arguments: list[str]) -> list[str]:
    """The inputs in the order in which the function takes them, where its arguments have their names.

    By name they cannot always be given: an exported model takes them as it was exported.
    """
    first = arguments[: len(names)]
    return first if set(first) == set(names) else names


def _arguments(function: Any) -> list[str]:
    """The names of a function's arguments, as far as they are known."""
    called = getattr(function, "forward", function)
    schema = getattr(called, "schema", None)  # of TorchScript
    if schema is not None:
        return [argument.name for argument in schema.arguments if argument.name != "self"]
    return list(inspect.signature(called).parameters)


def _outputs(torch: Any, method: str, spec: MethodSpec, answer: Any) -> dict[str, Any]:
    """The declared outputs in what the model returned: a tensor, several in order, or a dictionary."""
    names = [tensor.name for tensor in spec.outputs]
    found = _by_name(names, answer)
    if found is None:
        raise InvalidOutput(f"method {method!r}: the model returned {_in_words(answer)}; declared: {', '.join(names)}")
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidOutput(f"method {method!r}: output {name!r} is a {type(tensor).__name__}, not a tensor")
    return found


def _by_name(names: Sequence[str], answer: Any) -> dict[str, Any] | None:
    if isinstance(answer, Mapping):
        return {name: answer[name] for name in names} if set(names) <= set(answer) else None
    values = answer if isinstance(answer, (tuple, list)) else (answer,)
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else None


def _in_words(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a dictionary of {', '.join(map(str, answer))}"
    return f"{len(answer)} values" if isinstance(answer, (tuple, list)) else f"one {type(answer).__name__}"
