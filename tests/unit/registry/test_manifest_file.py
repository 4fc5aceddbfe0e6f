from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcserve.errors import ManifestError
from hpcserve.registry.manifest_file import read_manifest
from hpcserve.servable.manifest import Environment, MethodSpec, TensorDecl

GOOD = """
name = "digits"
description = "d"
loader = "python"
entry = "model:Model"

[methods.predict]
inputs = [{ name = "x", dtype = "float64", shape = [-1, 64] }]
outputs = [{ name = "y", dtype = "int64", shape = [-1] }]
idempotent = false
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "model.py").touch()
    return tmp_path


def written(directory: Path, text: str) -> Path:
    (directory / "servable.toml").write_text(text)
    return directory


def test_a_whole_file(directory: Path) -> None:
    manifest = read_manifest(written(directory, GOOD))
    assert (manifest.name, manifest.entry, manifest.environment) == ("digits", "model:Model", Environment())
    assert manifest.methods == {
        "predict": MethodSpec(
            inputs=(TensorDecl(name="x", dtype="float64", shape=(-1, 64)),),
            outputs=(TensorDecl(name="y", dtype="int64", shape=(-1,)),),
            idempotent=False,
        )
    }


def test_the_home_directory_is_expanded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = 'name="a"\nloader="python"\nentry="model:f"\nenvironment={kind="venv", path="~/venv"}'
    assert read_manifest(written(directory, text)).environment.path == "/home/me/venv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "servable.toml: not TOML: "),
        (
            GOOD.replace("inputs", "inptus"),
            "servable.toml: methods.predict: unknown field 'inptus'; did you mean 'inputs'?",
        ),
        (GOOD.replace("description", "descripton"), "servable.toml: unknown field 'descripton'; did you mean"),
        (GOOD.replace("shape = [-1, 64]", 'shape = "any"'), "methods.predict.inputs[0].shape: expected `array`"),
        (GOOD.replace("model:", "modle:"), "servable.toml: entry: no file 'modle.py' in "),
        (GOOD.replace('"python"', '"pyton"'), "servable.toml: loader: unknown loader 'pyton'; did you mean 'python'"),
        (GOOD.replace('"digits"', '"Digits"'), "servable.toml: 'Digits' cannot be a servable's name"),
        (GOOD.partition("[")[0] + "[methods]\npredict = 3", "servable.toml: methods.predict: expected `object`"),
        (GOOD + "\n[environment]\nkind = 'venv'\npath = '~nobody-of-this-name/x'", "servable.toml: environment.path: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place(directory: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_manifest(written(directory, text))


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"no directory {tmp_path}/nowhere"):
        read_manifest(tmp_path / "nowhere")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=f"no servable.toml in {tmp_path}"):
        read_manifest(tmp_path)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "servable.toml").write_bytes("name = 'é'".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"servable.toml is not UTF-8 \(byte 8: .*\); save it as UTF-8, without a"):
        read_manifest(tmp_path)


def test_a_byte_order_mark(directory: Path) -> None:
    (directory / "servable.toml").write_text(GOOD, encoding="utf-8-sig")
    with pytest.raises(ManifestError, match=r"begins with a byte order mark; save it as UTF-8, without a byte order"):
        read_manifest(directory)


def test_a_huge_file(tmp_path: Path) -> None:
    (tmp_path / "servable.toml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(ManifestError, match="1048577 bytes; a manifest has at most 1048576"):
        read_manifest(tmp_path)
