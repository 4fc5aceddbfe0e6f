"""Loader ``python``: ``entry = "module:Class"`` or ``"module:function"``, a module of the servable's directory.

Methods are those that the decorator declares and those of the manifest's ``[methods.NAME]``.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcserve.core.spelling import nearest
from hpcserve.errors import ManifestError
from hpcserve.servable.api import Context, declared_by, takes_comm, takes_parameters
from hpcserve.servable.loaders.entry import module_file, run_step, target_of
from hpcserve.servable.manifest import Manifest, MethodSpec, check_identifier

if TYPE_CHECKING:
    from hpcserve.servable.loaded import Arrays, Function, Loaded


class PythonLoader:
    """Loads a class or a function."""

    def check(self, manifest: Manifest, directory: Path) -> None:
        """The entry's module is a file of the directory."""
        _module_file(manifest, directory)

    def discover(self, manifest: Manifest, directory: Path) -> dict[str, MethodSpec]:
        """Imports the module and reads the declarations."""
        _module_file(manifest, directory)
        target = target_of(manifest, directory)
        if not inspect.isclass(target):
            return _function_methods(manifest, target)
        return {name: spec for name, (_, spec) in _class_methods(manifest, target).items()}

    def load(self, manifest: Manifest, context: Context) -> Loaded:
        """Imports the module, makes the object and calls its ``setup``."""
        from hpcserve.servable.loaded import Loaded, Method  # with numpy, which the daemon's checks need not have

        began_s = time.monotonic()
        _module_file(manifest, context.directory)
        target = target_of(manifest, context.directory)
        import_s = time.monotonic() - began_s
        if not inspect.isclass(target):
            of_function = _function_methods(manifest, target)
            made = {name: Method(spec, _caller(target, spec, context)) for name, spec in of_function.items()}
            return Loaded(made, import_s=import_s)
        specs = _class_methods(manifest, target)
        servable = run_step(f"{target.__name__}()", target)
        setup = getattr(servable, "setup", None)
        if setup is not None:
            arguments = (context,) if _takes_context(setup) else ()
            run_step(f"{target.__name__}.setup", lambda: setup(*arguments))
        methods = {
            name: Method(spec, _caller(getattr(servable, attribute), spec, context))
            for name, (attribute, spec) in specs.items()
        }
        teardown = getattr(servable, "teardown", None)
        if teardown is None:
            return Loaded(methods, import_s=import_s)
        return Loaded(methods, teardown, import_s=import_s)


def _module_file(manifest: Manifest, directory: Path) -> Path:
    if manifest.file is not None:
        raise ManifestError("file: the python loader takes none; open files of the directory in setup(context)")
    return module_file(manifest, directory)


def _takes_context(setup: Callable[..., object]) -> bool:
    return bool(inspect.signature(setup).parameters)


def _class_methods(manifest: Manifest, target: type) -> dict[str, tuple[str, MethodSpec]]:
    """The attribute and the declaration of each method, decorated ones first."""
    found = {
        name: (name, spec) for name, value in inspect.getmembers(target) if (spec := declared_by(value)) is not None
    }
    for name in found:
        _check_name(name)
    for name, spec in manifest.methods.items():
        if not callable(getattr(target, name, None)):
            raise ManifestError(f"methods.{name}: class {target.__name__} has no method {name!r}{nearest(name, found)}")
        found[name] = (name, _agreed(name, spec, found[name][1] if name in found else None, getattr(target, name)))
    if not found:
        raise ManifestError(
            f"class {target.__name__} declares no methods; decorate one with @method, or add [methods.NAME]"
        )
    for name, (_, spec) in found.items():
        _check_arguments(f"{target.__name__}.{name}", _without_self(target, name), spec)
        _check_comm(f"{target.__name__}.{name}", getattr(target, name), spec, manifest)
    return found


def _function_methods(manifest: Manifest, target: Callable[..., object]) -> dict[str, MethodSpec]:
    """The one method of a function. In the manifest it may have another name than the function."""
    declared = declared_by(target)
    own_name = getattr(target, "__name__", str(manifest.entry).partition(":")[2])
    if len(manifest.methods) > 1:
        names = ", ".join(manifest.methods)
        raise ManifestError(f"methods: {names}: the function {own_name!r} is one method; use a class for several")
    if declared is None and not manifest.methods:
        raise ManifestError(f"function {own_name!r} declares nothing; decorate it with @method, or add [methods.NAME]")
    specs = {name: _agreed(name, listed, declared, target) for name, listed in manifest.methods.items()}
    if declared is not None and not specs:
        specs[own_name] = declared
    for name, spec in specs.items():
        _check_name(name)
        _check_arguments(own_name, inspect.signature(target), spec)
        _check_comm(own_name, target, spec, manifest)
        _check_plain(target)
    return specs


def _check_name(name: str) -> None:
    try:
        check_identifier("a method's name", name)
    except ValueError as error:
        raise ManifestError(str(error)) from error


def _agreed(name: str, listed: MethodSpec, declared: MethodSpec | None, function: Callable[..., object]) -> MethodSpec:
    """The declaration where the manifest has one: it must not contradict the decorator's."""
    parameters = takes_parameters(function)
    if listed.parameters and not parameters:
        raise ManifestError(f"methods.{name}: parameters = true, but it has no keyword-only argument 'parameters'")
    whole = MethodSpec(
        inputs=listed.inputs,
        outputs=listed.outputs,
        idempotent=listed.idempotent,
        batchable=listed.batchable,
        parameters=parameters,
        batching=listed.batching,
        stream=listed.stream or inspect.isgeneratorfunction(function),
        launches=listed.launches,
    )
    if declared is not None and declared != whole:
        raise ManifestError(f"methods.{name}: servable.toml and @method differ; declare it in one place")
    return whole


def _without_self(target: type, name: str) -> inspect.Signature:
    """The signature as a caller of the instance sees it."""
    signature = inspect.signature(getattr(target, name))
    if isinstance(inspect.getattr_static(target, name), (staticmethod, classmethod)):
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _check_arguments(where: str, signature: inspect.Signature, spec: MethodSpec) -> None:
    """The inputs can be passed by name, and nothing else is needed."""
    names = {tensor.name: None for tensor in spec.inputs}
    more = (("parameters", spec.parameters), ("comm", "comm" in signature.parameters))
    given: Mapping[str, None] = {**names, **dict.fromkeys(name for name, wanted in more if wanted)}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ManifestError(
            f"{where}{signature} does not fit its inputs ({', '.join(names)}): {error}; "
            "name the arguments as the inputs"
        ) from error


def _check_comm(where: str, function: Callable[..., object], spec: MethodSpec, manifest: Manifest) -> None:
    """No rank is to talk to others that compute something else, or nothing."""
    ranks = manifest.ranks
    if ranks.size > 1 and ranks.compute != "collective" and takes_comm(function, spec):
        raise ManifestError(
            f'{where}: it has an argument comm, but with ranks.compute = "{ranks.compute}" each rank computes a share '
            'of its own, or nothing; write ranks.compute = "collective" into servable.toml, or take no comm'
        )


def _check_plain(function: Callable[..., object]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        where = getattr(function, "__qualname__", function)
        raise ManifestError(f"{where}: a method must be a plain function or a generator function, without async")


def _with_communicator(function: Callable[..., object], context: Context) -> Callable[..., object]:
    """The function, called with the communicator that there is then: of several ranks it is another after a failure."""
    if context.size == 1:
        return partial(function, comm=context.comm)
    return lambda **arguments: function(comm=context.comm, **arguments)


def _caller(function: Callable[..., object], spec: MethodSpec, context: Context) -> Function:
    _check_plain(function)
    if takes_comm(function, spec):
        function = _with_communicator(function, context)
    if spec.parameters:
        return lambda inputs, parameters: function(**inputs, parameters=dict(parameters))

    def call(inputs: Arrays, _parameters: Mapping[str, Any]) -> object:
        return function(**inputs)

    return call
