"""Finds a loader by its name: our own, then those of installed entry points."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hpcserve.core.spelling import nearest
from hpcserve.errors import ManifestError
from hpcserve.servable.loaders.python import PythonLoader
from hpcserve.servable.loaders.seam import ENTRY_POINTS, Loader
from hpcserve.servable.loaders.sklearn import SklearnLoader
from hpcserve.servable.loaders.torch import TorchLoader

_OWN: dict[str, Callable[[], Loader]] = {"python": PythonLoader, "sklearn": SklearnLoader, "torch": TorchLoader}


def loader_named(name: str) -> Loader:
    """The loader that a manifest names.

    Raises:
        ManifestError: There is none, or it cannot be imported.
    """
    if name in _OWN:
        return _OWN[name]()
    from importlib.metadata import entry_points  # half of what a replica's own imports would take

    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        raise ManifestError(f"loader: unknown loader {name!r}{nearest(name, [*_OWN, *found])}")
    try:
        return cast("Loader", found[name].load()())
    except Exception as error:
        raise ManifestError(f"loader: {name!r} ({found[name].value}) cannot be used: {error}") from error
