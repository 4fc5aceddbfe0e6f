"""The programs in the documentation do what it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hpcserve.registry.manifest_file import read_manifest
from hpcserve.servable.api import Context
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.loaders.python import PythonLoader
from hpcserve.servable.manifest import Manifest, WarmUp
from hpcserve.servable.warmup import check
from hpcserve.wire.tensor import Json


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def loaded(directory: Path, manifest: Manifest) -> Loaded:
    return loader_named(manifest.loader).load(manifest, Context(directory))


def test_the_class_of_the_reference(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(blocks(root / "docs/reference/servable.md", "python")[0])
    np.save(tmp_path / "weights.npy", np.array([1.0, 2.0, 3.0]))
    servable = loaded(tmp_path, Manifest(name="a", loader="python", entry="model:Model"))
    assert servable.run("predict", {"x": np.eye(3)}, {})["y"].tolist() == [1.0, 2.0, 3.0]
    text = np.array(b"to be or not to be", dtype=object)
    assert servable.run("count", {"text": text}, {"shortest": 3}) == {"words": Json({"not": 1})}
    servable.teardown()


def test_the_manifest_of_the_reference(root: Path, tmp_path: Path) -> None:
    (tmp_path / "servable.toml").write_text(blocks(root / "docs/reference/servable.md", "toml")[1])
    (tmp_path / "model.joblib").touch()
    shipped = read_manifest_without_files(root / "hpcserve/examples/digits", tmp_path / "shipped")
    assert read_manifest(tmp_path).methods == shipped.methods


def test_the_warm_ups_of_the_reference_and_the_guide_fit_its_class(root: Path, tmp_path: Path) -> None:
    page = root / "docs/reference/servable.md"
    (tmp_path / "model.py").write_text(blocks(page, "python")[0])
    manifest = Manifest(name="a", loader="python", entry="model:Model")
    whole = msgspec.structs.replace(manifest, methods=PythonLoader().discover(manifest, tmp_path))
    guide = next(each for each in blocks(root / "docs/how-to/write-a-servable.md", "toml") if "[[warmup]]" in each)
    for text, runs in ((blocks(page, "toml")[0], 2), (guide, 1)):
        warmup = msgspec.convert(tomllib.loads(text)["warmup"], tuple[WarmUp, ...])
        assert len(warmup) == runs
        check(msgspec.structs.replace(whole, warmup=warmup), tmp_path)


def test_the_torch_manifest_of_the_reference(root: Path, tmp_path: Path) -> None:
    (text,) = [each for each in blocks(root / "docs/reference/servable.md", "toml") if "[torch]" in each]
    (tmp_path / "servable.toml").write_text(text)
    (tmp_path / "model.pt2").touch()
    assert read_manifest(tmp_path).methods["predict"].batchable


def test_the_launching_class_of_the_reference(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(blocks(root / "docs/reference/servable.md", "python")[1])
    servable = loaded(tmp_path, Manifest(name="a", loader="python", entry="model:Model"))
    launched = servable.launch("double", {"x": np.array([1.0, 2.0])}, {})
    assert launched.result()["y"].tolist() == [2.0, 4.0]


def read_manifest_without_files(directory: Path, scratch: Path) -> Manifest:
    scratch.mkdir()
    (scratch / "model.joblib").touch()
    (scratch / "servable.toml").write_bytes((directory / "servable.toml").read_bytes())
    return read_manifest(scratch)


def test_the_function_of_the_guide(root: Path, tmp_path: Path) -> None:
    page = root / "docs/how-to/write-a-servable.md"
    (tmp_path / "servable.toml").write_text(blocks(page, "toml")[0])
    (tmp_path / "mean.py").write_text(blocks(page, "python")[0])
    servable = loaded(tmp_path, read_manifest(tmp_path))
    assert servable.run("mean", {"x": np.array([1.0, 2.0])}, {})["mean"] == pytest.approx(1.5)


def test_the_class_of_the_guide(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(blocks(root / "docs/how-to/write-a-servable.md", "python")[1])
    np.save(tmp_path / "weights.npy", np.array([1.0, 2.0, 3.0]))
    servable = loaded(tmp_path, Manifest(name="a", loader="python", entry="model:Model"))
    assert servable.run("predict", {"x": np.ones((2, 3))}, {})["y"].tolist() == [6.0, 6.0]
