"""Nothing outside ``cluster/`` and ``config/`` knows one batch scheduler from another: that is behind the seam."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hpcserve"
MAY_KNOW = ("cluster", "config")
NAMES = ("slurm", "pbs")
OWN_MODULES = ("slurm", "pbs", "pyslurm", "sbatch", "site_slurm", "site_pbs")


def known(source: str) -> Iterator[str]:
    """The schedulers that a module names by a value, or of which it imports an adapter."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in NAMES:
            yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            within = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for module in (f"{within}{each.name}" for each in node.names):
                if module.removeprefix("hpcserve.cluster.").startswith(OWN_MODULES):
                    yield f"line {node.lineno}: {module}"


@pytest.mark.parametrize(
    "source",
    [
        'if site.scheduler.kind == "slurm":\n    pass',
        'is_ours = kind in ("local", "pbs")',
        "def later():\n    from hpcserve.cluster.site_slurm import questions",
        "from hpcserve.cluster import pbs_states",
        "import hpcserve.cluster.slurm",
    ],
)
def test_what_knows_a_scheduler_is_found(source: str) -> None:
    assert list(known(source))


def test_no_other_module_knows_a_scheduler() -> None:
    found = {
        str(path.relative_to(PACKAGE)): list(known(path.read_text()))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in MAY_KNOW
    }
    assert len(found) > 100
    assert {path: told for path, told in found.items() if told} == {}
