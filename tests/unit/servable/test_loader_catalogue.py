from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.errors import ManifestError
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.loaders.python import PythonLoader
from hpcserve.servable.loaders.sklearn import SklearnLoader


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A distribution with two entry points, as pip would leave it."""
    info = tmp_path / "others-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hpcserve.loaders]\nthird = their_loader:Their\nbroken = their_loader:Missing\n"
    )
    (tmp_path / "their_loader.py").write_text("class Their:\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    sys.modules.pop("their_loader", None)


def test_our_own() -> None:
    assert isinstance(loader_named("python"), PythonLoader)
    assert isinstance(loader_named("sklearn"), SklearnLoader)


@pytest.mark.usefixtures("installed")
def test_those_of_others() -> None:
    assert type(loader_named("third")).__name__ == "Their"


@pytest.mark.usefixtures("installed")
def test_a_broken_one() -> None:
    with pytest.raises(ManifestError, match=r"loader: 'broken' \(their_loader:Missing\) cannot be used"):
        loader_named("broken")


@pytest.mark.usefixtures("installed")
def test_an_unknown_one_is_answered_with_the_nearest() -> None:
    with pytest.raises(ManifestError, match="loader: unknown loader 'sklaern'; did you mean 'sklearn'"):
        loader_named("sklaern")
    with pytest.raises(ManifestError, match="loader: unknown loader 'zzz'; known: broken, python, sklearn, third"):
        loader_named("zzz")
