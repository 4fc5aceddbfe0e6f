"""``core/`` decides and does nothing else: no clock, no file, no socket, no chance that it was not given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# What decisions are computed with. ``random`` is for a generator with a seed: see ``unseeded``.
MAY_IMPORT = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "heapq",
    "hpcserve.core",
    "hpcserve.errors",
    "hpcserve.types",
    "itertools",
    "math",
    "msgspec",
    "operator",
    "random",
    "re",
    "statistics",
    "types",
    "typing",
    "urllib.parse",
}
ACTS = {"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"}


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"imports {alias.name}" for alias in node.names if not allowed(alias.name))
    elif isinstance(node, ast.ImportFrom):
        names = {node.module or ""} if node.module != "hpcserve" else {f"hpcserve.{alias.name}" for alias in node.names}
        yield from (f"imports {name}" for name in sorted(names) if node.level == 0 and not allowed(name))


def allowed(module: str) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in MAY_IMPORT)


def acts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ACTS:
        yield f"calls {node.func.id}"
    if isinstance(node, ast.AsyncFunctionDef | ast.Await):
        yield "waits"


def unseeded(node: ast.AST) -> Iterator[str]:
    """``random.Random(seed)`` and the type ``random.Random`` are fine; all else has a state that nobody gave."""
    if isinstance(node, ast.ImportFrom) and node.module == "random":
        yield "imports from random, where random.Random(seed) is meant"
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and node.attr != "Random":
        yield f"uses random.{node.attr}"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "random.Random" and not (node.args or node.keywords):
        yield "makes a random.Random without a seed"


def impurities(text: str) -> list[str]:
    return [
        f"line {getattr(node, 'lineno', 0)} {what}"
        for node in ast.walk(ast.parse(text))
        for look in (imports, acts, unseeded)
        for what in look(node)
    ]


def test_core_is_pure(root: Path) -> None:
    files = sorted((root / "hpcserve" / "core").rglob("*.py"))
    assert len(files) > 5
    assert {file.name: found for file in files if (found := impurities(file.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "import os.path",
        "from asyncio import sleep",
        "from hpcserve import config",
        "from hpcserve.wire import frames",
        "def f():\n    import zmq",
        "print(3)",
        "open('x')",
        "async def f(): pass",
        "import random\nx = random.random()",
        "import random\nx = random.Random()",
        "from random import shuffle",
    ],
)
def test_what_is_not_pure_is_found(text: str) -> None:
    assert len(impurities(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from collections.abc import Mapping",
        "from hpcserve import errors",
        "from hpcserve.core import actions as act",
        "from . import actions",
        "import random\ndef f(chance: random.Random): return chance.random()",
        "import random\nx = random.Random(3)",
    ],
)
def test_what_is_pure_passes(text: str) -> None:
    assert impurities(text) == []
