"""The ``entry`` of a manifest: ``"module:attribute"``, a module of the servable's directory.

The module gets a name of its own, so that two servables may both have a ``model.py``; the directory is
put on ``sys.path`` for the modules that it imports.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hpcserve.core.spelling import nearest
from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.manifest import Manifest
from hpcserve.servable.paths import inside
from hpcserve.servable.tracebacks import headline, servable_traceback

_ENTRY = re.compile(r"(?P<module>[^\W\d]\w*):(?P<attribute>[^\W\d]\w*)")

T = TypeVar("T")


def module_file(manifest: Manifest, directory: Path) -> Path:
    """The file of the entry's module.

    Raises:
        ManifestError: ``entry`` is missing or malformed, or there is no such file.
    """
    if manifest.entry is None:
        raise ManifestError(f'entry: the {manifest.loader} loader needs entry = "module:Class" or "module:function"')
    parts = _ENTRY.fullmatch(manifest.entry)
    if parts is None:
        raise ManifestError(f'entry: {manifest.entry!r} is not "module:Class" or "module:function"')
    return inside(directory, f"{parts['module']}.py", "entry")


def target_of(manifest: Manifest, directory: Path) -> Any:
    """The class or function that ``entry`` names; its module is imported.

    Raises:
        ManifestError: There is no such thing.
        ServableError: The module failed.
    """
    module = _imported(module_file(manifest, directory))
    attribute = str(manifest.entry).partition(":")[2]
    target = getattr(module, attribute, None)
    if target is None:
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ManifestError(f"entry: {manifest.entry!r}: no {attribute!r} in the module{nearest(attribute, known)}")
    if not callable(target):
        raise ManifestError(f"entry: {manifest.entry!r} is a {type(target).__name__}, not a class or a function")
    return target


def _imported(path: Path) -> ModuleType:
    directory = str(path.parent.resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = f"_servable_{hashlib.sha256(directory.encode(errors='surrogateescape')).hexdigest()[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ManifestError(f"entry: {path.name} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        run_step(f"importing {path.name}", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]  # checked
    except BaseException:
        del sys.modules[name]
        raise
    return module


def run_step(what: str, step: Callable[[], T]) -> T:
    """Runs a step of the servable's own code.

    Raises:
        ServableError: It failed; ``remote_traceback`` says where.
    """
    try:
        return step()
    except ManifestError:
        raise
    except BaseException as error:  # sys.exit() and KeyboardInterrupt too: no replica and no inspection hears SIGINT
        raise ServableError(f"{what} failed: {headline(error)}", remote_traceback=servable_traceback(error)) from error
