"""The servable of the page on ranks computes what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.integration.rank_rig import Group


def test_the_servable_of_the_page(root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "explanation" / "ranks.md").read_text()
    servable = tmp_path / "wide"
    servable.mkdir()
    for language, name in (("toml", "servable.toml"), ("python", "wide.py")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        (servable / name).write_text(block)
    group = Group(str(servable), tmp_path)
    try:
        group.ready()
        x = np.random.default_rng(1).random((5, 1024))
        assert np.allclose(group.call("predict", x=x)["y"], x @ np.random.default_rng(0).random((1024, 16)))
        assert group.end() == 0
    finally:
        group.close()
