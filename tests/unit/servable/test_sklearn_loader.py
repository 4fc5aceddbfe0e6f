from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve.errors import InvalidOutput, ManifestError, ServableError
from hpcserve.servable.api import Context
from hpcserve.servable.loaders.sklearn import SklearnLoader
from hpcserve.servable.manifest import Manifest, MethodSpec, TensorDecl, to_json

X = TensorDecl(name="x", dtype="float64", shape=(-1, 2))
LABEL = TensorDecl(name="label", dtype="int64", shape=(-1,))
SHARE = TensorDecl(name="share", dtype="float64", shape=(-1, 2))
PREDICT = MethodSpec(inputs=(X,), outputs=(LABEL,))
SAMPLES = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.1], [1.0, 0.9]])
LABELS = np.array([0, 1, 0, 1])


def manifest(file: str | None = "model.joblib", entry: str | None = None, **methods: MethodSpec) -> Manifest:
    return Manifest(name="a", loader="sklearn", file=file, entry=entry, methods=methods)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    # Here: whoever collects all tests has not to wait for them.
    import joblib  # type: ignore[import-untyped]  # it ships no types
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # it ships no types
    from sklearn.svm import SVC  # type: ignore[import-untyped]  # it ships no types

    joblib.dump(LogisticRegression().fit(SAMPLES, LABELS), tmp_path / "model.joblib")
    joblib.dump(SVC().fit(SAMPLES, LABELS), tmp_path / "svc.joblib")
    (tmp_path / "broken.joblib").write_bytes(b"no pickle")
    return tmp_path


def test_declared_methods_run(directory: Path) -> None:
    whole = manifest(predict=PREDICT, predict_proba=MethodSpec(inputs=(X,), outputs=(SHARE,)))
    loader = SklearnLoader()
    assert loader.discover(whole, directory) == whole.methods
    loaded = loader.load(whole, Context(directory))
    assert loaded.run("predict", {"x": SAMPLES}, {})["label"].tolist() == [0, 1, 0, 1]
    assert loaded.run("predict_proba", {"x": SAMPLES}, {})["share"].shape == (4, 2)
    loaded.teardown()


def test_an_output_that_is_declared_wrongly_is_seen(directory: Path) -> None:
    loaded = SklearnLoader().load(manifest(predict=MethodSpec(inputs=(X,), outputs=(SHARE,))), Context(directory))
    with pytest.raises(InvalidOutput, match="output 'share' has dtype int64, expected float64"):
        loaded.run("predict", {"x": SAMPLES}, {})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (manifest(None, predict=PREDICT), 'file: the sklearn loader needs file = "model.joblib"'),
        (manifest(entry="a:b", predict=PREDICT), "entry: the sklearn loader takes none"),
        (manifest("no.joblib", predict=PREDICT), "file: no file 'no.joblib'"),
        (manifest("../model.joblib", predict=PREDICT), "file: '../model.joblib' leaves the servable's directory"),
        (manifest("a/../../b", predict=PREDICT), "leaves the servable's directory"),
        (manifest("/etc/passwd", predict=PREDICT), "file: '/etc/passwd' is not a path relative to"),
        (manifest("", predict=PREDICT), "file: '' is not a path relative to"),
        (manifest("a\0b", predict=PREDICT), "is not a path relative to"),
        (manifest(".", predict=PREDICT), "file: '.' is not a file"),
        (manifest("out.joblib", predict=PREDICT), "file: 'out.joblib' is a link to /"),
        (manifest("loop", predict=PREDICT), "file: no file 'loop'"),
        (manifest(), "methods: the sklearn loader needs at least one"),
        (
            manifest(predict=MethodSpec(inputs=(X, LABEL), outputs=(LABEL,))),
            "methods.predict: an estimator's method has exactly one input and one output",
        ),
        (
            manifest(predict=MethodSpec(inputs=(X,), outputs=(LABEL,), parameters=True)),
            "methods.predict: parameters",
        ),
    ],
)
def test_bad_manifests(directory: Path, bad: Manifest, message: str) -> None:
    (directory / "out.joblib").symlink_to("/etc/hostname" if Path("/etc/hostname").exists() else "/proc/version")
    (directory / "loop").symlink_to("loop")
    with pytest.raises(ManifestError, match=re.escape(message)):
        SklearnLoader().check(bad, directory)


@pytest.mark.parametrize("name", ["predikt", "coef_", "classes_"])
def test_methods_that_the_estimator_lacks(directory: Path, name: str) -> None:
    whole = Manifest(name="a", loader="sklearn", file="model.joblib", methods={name: PREDICT})
    with pytest.raises(ManifestError, match=f"methods.{name}: LogisticRegression has no method"):
        SklearnLoader().discover(whole, directory)


def test_a_method_that_this_estimator_refuses(directory: Path) -> None:
    with pytest.raises(ManifestError, match="methods.predict_proba: SVC has no method 'predict_proba'"):
        SklearnLoader().discover(manifest("svc.joblib", predict_proba=PREDICT), directory)


def test_a_broken_file(directory: Path) -> None:
    with pytest.raises(ServableError, match="cannot load the estimator broken.joblib") as caught:
        SklearnLoader().load(manifest("broken.joblib", predict=PREDICT), Context(directory))
    assert caught.value.remote_traceback


@pytest.mark.parametrize("missing", ["joblib", "sklearn"])
def test_a_missing_package_names_the_extra(directory: Path, missing: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from pathlib import Path
from hpcserve.servable.api import Context
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import from_json
manifest = from_json(sys.argv[1])
try:
    loader_named("sklearn").load(manifest, Context(Path({str(directory)!r})))
except Exception as error:
    print(type(error).__name__, error)
"""
    argv: list[Any] = [sys.executable, "-c", program, to_json(manifest(predict=PREDICT))]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith("ServableError ")
    assert f"needs {missing}" in result.stdout
    assert "pip install 'hpcserve[sklearn]'" in result.stdout
