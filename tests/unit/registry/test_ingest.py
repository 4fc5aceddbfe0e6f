from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcserve.errors import ManifestError
from hpcserve.registry.ingest import ingest

GOOD = "from hpcserve import Tensor, method\n@method(inputs={}, outputs={})\ndef f(): ...\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    (root / "servable.toml").write_text('name = "a"\nloader = "python"\nentry = "model:f"\n')
    (root / "model.py").write_text(GOOD)
    return root


def test_a_servable_is_taken_in_once(source: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first = ingest(source, shared, timeout_s=60)
    assert first.new
    assert first.path == shared / "servables" / first.version
    assert list(first.manifest.methods) == ["f"]
    again = ingest(source, shared, timeout_s=60)
    assert not again.new
    assert (again.version, again.path, again.manifest) == (first.version, first.path, first.manifest)


def test_the_kept_copy_is_inspected(source: Path, tmp_path: Path) -> None:
    (source / "model.py").write_text(GOOD + f"assert not __file__.startswith({str(source)!r})\n")
    assert ingest(source, tmp_path / "shared", timeout_s=60).new


@pytest.mark.parametrize("text", ["1 / 0", "def f(): ..."])
def test_a_servable_that_fails_is_not_kept(source: Path, tmp_path: Path, text: str) -> None:
    (source / "model.py").write_text(text)
    with pytest.raises(ManifestError, match="servable 'a'"):
        ingest(source, tmp_path / "shared", timeout_s=60)
    assert os.listdir(tmp_path / "shared" / "servables") == []


def test_a_version_that_others_use_stays_although_it_fails_now(source: Path, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    (source / "model.py").write_text(GOOD + f"import os\nassert not os.path.exists({str(switch)!r})\n")
    kept = ingest(source, tmp_path / "shared", timeout_s=60).path
    switch.touch()
    with pytest.raises(ManifestError, match="AssertionError"):
        ingest(source, tmp_path / "shared", timeout_s=60)
    assert kept.is_dir()


def test_nothing_is_copied_for_a_wrong_manifest(source: Path, tmp_path: Path) -> None:
    (source / "servable.toml").write_text("name = 3")
    with pytest.raises(ManifestError, match="servable.toml: "):
        ingest(source, tmp_path / "shared", timeout_s=60)
    assert not (tmp_path / "shared").exists()
