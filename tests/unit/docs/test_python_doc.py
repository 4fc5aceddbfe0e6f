"""docs/reference/python.md has the signatures of the program, docs/reference/errors.md its errors."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import hpcserve
from hpcserve import errors
from hpcserve.client import AsyncClient, Client, Outputs

ROOT = Path(__file__).resolve().parents[3]
PYTHON = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
CLASSES: dict[str, type[Any]] = {"Client": Client, "AsyncClient": AsyncClient, "Outputs": Outputs}
SIGNATURE = re.compile(r"^### `(?:async )?(\w+)\.?(\w*)\((.*)\)`", re.MULTILINE)


def signature(function: Any, *, bound: bool) -> str:
    """The parameters without their types."""
    parameters = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(plain))


def methods(kind: type[Any]) -> set[str]:
    return {name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")}


def test_the_signatures() -> None:
    for owner, name, parameters in SIGNATURE.findall(PYTHON):
        kind = CLASSES[owner]
        found = signature(getattr(kind, name), bound=True) if name else signature(kind, bound=False)
        assert f"({parameters})" == found, f"{owner}.{name}"


@pytest.mark.parametrize("owner", ["Client", "AsyncClient"])
def test_every_method_is_there(owner: str) -> None:
    assert {name for each, name, _ in SIGNATURE.findall(PYTHON) if each == owner and name} == methods(CLASSES[owner])


def test_every_public_name_is_there() -> None:
    missing = [name for name in hpcserve.__all__ if f"`{name}" not in PYTHON]
    assert not missing


def test_the_table_of_errors() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \| (yes|no) \| (.+?) \| (.+?) \|$", ERRORS, re.MULTILINE)
    documented = {code: (name, int(status), retry == "yes") for name, code, status, retry, _, _ in rows}
    assert documented == {
        code: (kind.__name__, kind.http_status, kind.retryable) for code, kind in errors.BY_CODE.items()
    }


def test_the_tree_of_errors() -> None:
    """Its indentation is the inheritance."""
    tree = re.search(r"^```text\n(HpcserveError\n.*?)^```$", ERRORS, re.MULTILINE | re.DOTALL)
    assert tree is not None
    path: list[str] = []
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        name = line.lstrip("│├└─ ").split()[0]
        parents = [each.__name__ for each in getattr(errors, name).__mro__ if issubclass(each, errors.HpcserveError)]
        path[depth:] = [name]
        assert parents[::-1] == path
