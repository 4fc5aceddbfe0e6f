"""Servable directories for tests."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcserve.servable.api import Context
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Manifest, MethodSpec

PythonServable = Callable[..., tuple[Manifest, Path]]
Load = Callable[[tuple[Manifest, Path]], Loaded]

HEAD = "import numpy as np\nfrom hpcserve import Tensor, method\n"


@pytest.fixture
def python_servable(tmp_path: Path) -> PythonServable:
    """Writes a module and gives its manifest and directory."""

    def write(
        source: str, *, entry: str = "model:Model", methods: dict[str, MethodSpec] | None = None, where: str = "a"
    ) -> tuple[Manifest, Path]:
        directory = tmp_path / where
        directory.mkdir(exist_ok=True)
        (directory / f"{entry.partition(':')[0]}.py").write_text(HEAD + textwrap.dedent(source))
        return Manifest(name="test", loader="python", entry=entry, methods=methods or {}), directory

    return write


@pytest.fixture
def load() -> Load:
    """Loads what ``python_servable`` wrote."""

    def loaded(servable: tuple[Manifest, Path]) -> Loaded:
        manifest, directory = servable
        return loader_named(manifest.loader).load(manifest, Context(directory, replica="r1"))

    return loaded
