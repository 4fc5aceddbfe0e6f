"""Loader ``sklearn``: ``file`` is an estimator dumped by joblib; each method of the manifest is one of its own.

``predict``, ``predict_proba``, ``transform``, …: whatever takes one array and returns one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcserve.core.spelling import nearest
from hpcserve.errors import ManifestError, ServableError
from hpcserve.servable.api import Context
from hpcserve.servable.manifest import Manifest, MethodSpec
from hpcserve.servable.paths import inside
from hpcserve.servable.tracebacks import headline, servable_traceback

if TYPE_CHECKING:
    from hpcserve.servable.loaded import Arrays, Function, Loaded, Method


class SklearnLoader:
    """Loads a fitted scikit-learn estimator."""

    def check(self, manifest: Manifest, directory: Path) -> None:
        """The file is there, and each method has one input and one output."""
        if manifest.file is None:
            raise ManifestError('file: the sklearn loader needs file = "model.joblib", an estimator dumped by joblib')
        if manifest.entry is not None:
            raise ManifestError('entry: the sklearn loader takes none; use loader = "python" to write code')
        inside(directory, manifest.file, "file")
        if not manifest.methods:
            raise ManifestError("methods: the sklearn loader needs at least one, such as [methods.predict]")
        for name, spec in manifest.methods.items():
            if len(spec.inputs) != 1 or len(spec.outputs) != 1:
                raise ManifestError(f"methods.{name}: an estimator's method has exactly one input and one output")
            if spec.parameters:
                raise ManifestError(f"methods.{name}: parameters: an estimator's method takes none")
            if spec.stream:
                raise ManifestError(f"methods.{name}: stream: an estimator's method returns all at once")
            if spec.launches:
                raise ManifestError(f"methods.{name}: launches: an estimator's method returns when it is done")

    def discover(self, manifest: Manifest, directory: Path) -> dict[str, MethodSpec]:
        """Loads the estimator to see that it has the methods."""
        self._methods(manifest, directory)
        return dict(manifest.methods)

    def load(self, manifest: Manifest, context: Context) -> Loaded:
        """Loads the estimator."""
        from hpcserve.servable.loaded import Loaded  # with numpy, which the daemon's checks need not have

        began_s = time.monotonic()
        _joblib()
        import_s = time.monotonic() - began_s
        return Loaded(self._methods(manifest, context.directory), import_s=import_s)

    def _methods(self, manifest: Manifest, directory: Path) -> dict[str, Method]:
        from hpcserve.servable.loaded import Method

        self.check(manifest, directory)
        estimator = _loaded(inside(directory, str(manifest.file), "file"))
        return {name: Method(spec, _caller(estimator, name, spec)) for name, spec in manifest.methods.items()}


def _joblib() -> Any:
    try:
        import joblib  # type: ignore[import-untyped]  # it ships no types
        import sklearn  # type: ignore[import-untyped]  # noqa: F401 (joblib's error would name no extra)
    except ImportError as error:
        raise ServableError(
            f"the sklearn loader needs {error.name}, which is not installed; pip install 'hpcserve[sklearn]'"
        ) from error
    return joblib


def _loaded(path: Path) -> Any:
    joblib = _joblib()
    try:
        return joblib.load(path)
    except BaseException as error:
        raise ServableError(
            f"cannot load the estimator {path.name}: {headline(error)}", remote_traceback=servable_traceback(error)
        ) from error


def _caller(estimator: Any, name: str, spec: MethodSpec) -> Function:
    try:
        function: Callable[[Any], object] | None = getattr(estimator, name, None)
    except Exception as error:
        raise ManifestError(f"methods.{name}: this {type(estimator).__name__} cannot: {headline(error)}") from error
    if not callable(function):
        known = [one for one in dir(type(estimator)) if not one.startswith("_")]
        raise ManifestError(f"methods.{name}: {type(estimator).__name__} has no method {name!r}{nearest(name, known)}")
    only = spec.inputs[0].name

    def call(inputs: Arrays, _parameters: Mapping[str, Any]) -> object:
        return function(inputs[only])

    return call
