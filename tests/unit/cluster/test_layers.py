"""The images of our own that servables' own can stand on."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest

from hpcserve.cluster import gather
from hpcserve.cluster.layers import DEFINITIONS, Layer, layers
from hpcserve.errors import ConfigError
from hpcserve.servable.manifest import LAYERS


def test_what_is_asked_for_is_put_over_python_in_that_order() -> None:
    mpich, torch = layers(["python", "mpich==5.0.2", "torch"])
    assert mpich == Layer("mpich", "mpi.def", ("mpi4py<5,>=4.1",), "mpich==5.0.2")
    assert torch == Layer("torch", "torch.def", ("torch<3,>=2.6",))
    assert layers(["mpich"])[0].prefix == "mpich>=4.3,<5"
    assert layers(["torch==2.13.0+cpu"])[0].packages == ("torch==2.13.0+cpu",)
    assert layers([]) == layers(["python"]) == ()


def test_there_is_a_definition_file_for_what_a_manifest_may_name(root: Path) -> None:
    assert tuple(DEFINITIONS) == LAYERS
    assert {name for name in DEFINITIONS.values() if name} <= {
        each.name for each in (root / "containers").glob("*.def")
    }


def test_an_image_s_name_tells_all_that_is_below() -> None:
    (layer,) = layers(["mpich"])
    (other,) = layers(["mpich==5.0.2"])
    keys = {layer.key("a", "text"), layer.key("b", "text"), layer.key("a", "other"), other.key("a", "text")}
    assert len(keys) == 4


def test_a_wheel_s_programs_and_libraries_are_unpacked_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(
        wheels / "tool-1.0-py3-none-any.whl",
        {"tool-1.0.data/data/bin/tool": 0o755, "tool-1.0.data/data/lib/x/y.so": 0o644},
    )
    wheel(wheels / "bare-1.0-py3-none-any.whl", {"bare.py": 0o644})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    target = tmp_path / "cache" / "prefix"
    assert gather.gather_prefix(target, "tool", (3, 12), "x86_64", "2.36")
    found = {str(each.relative_to(target)): each.stat().st_mode & 0o777 for each in target.rglob("*") if each.is_file()}
    assert found == {"bin/tool": 0o755, "lib/x/y.so": 0o644}
    assert not gather.gather_prefix(target, "tool", (3, 12), "x86_64", "2.36")
    with pytest.raises(ConfigError, match="the wheel of bare has no programs and no libraries of its own"):
        gather.gather_prefix(tmp_path / "cache" / "other", "bare", (3, 12), "x86_64", "2.36")
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["prefix"]


def wheel(path: Path, files: dict[str, int]) -> None:
    """The least that pip takes for a wheel, with files of these modes."""
    name, version = path.name.split("-")[:2]
    with ZipFile(path, "w") as archive:
        for file, mode in files.items():
            entry = ZipInfo(file)
            entry.external_attr = mode << 16
            archive.writestr(entry, "content")
        about = f"{name}-{version}.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
