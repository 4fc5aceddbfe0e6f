"""Imports point down: the whole tree is read, and made-up trees prove that the reader sees."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the top: an area imports from the rows below its own, never from a sibling. "hpcserve" stands for the
# public names that the package hands on, such as hpcserve.Client.
ROWS = (
    {"cli", "testing"},
    {"examples"},
    {"hpcserve"},
    {"gateway"},
    {"client", "daemon", "pilot", "replica"},
    {"auth", "cluster", "registry", "staging"},
    {"servable"},
    {"core", "wire"},
    {"bootstrap", "config", "errors", "sitefile", "tables", "types"},
)
GROUND = ROWS[-1]
RANK = {area: rank for rank, row in enumerate(ROWS) for area in row}

# The exceptions. Only the registry, of its row, knows servables.
NOT_EVEN_DOWN = {(area, "servable") for area in ("auth", "cluster", "staging")}
# These run on Python 3.10 in other people's images, and config reads TOML.
NOT_EVEN_DOWN |= {(area, read) for area in ("core", "replica", "servable", "wire") for read in ("config", "sitefile")}
NOT_EVEN_DOWN |= {("replica", area) for area in ROWS[5]}

# What these may not import of others' modules. For core, tests/unit/test_core_purity.py says what it may.
ACTING = "asyncio logging multiprocessing os pathlib secrets select selectors shutil signal socket subprocess sys"
NOT_FOR_OTHERS_IMAGES = {"multiprocessing", "psutil", "rich", "sqlalchemy", "subprocess", "tomllib", "typer"}
FOREIGN = {
    "wire": {*ACTING.split(), *NOT_FOR_OTHERS_IMAGES, "tempfile", "threading", "time", "zmq"},
    "replica": NOT_FOR_OTHERS_IMAGES,
    "servable": NOT_FOR_OTHERS_IMAGES,
}
# Whatever starts a process or puts another in our place, and the only files that do.
STARTS = re.compile(
    r"(subprocess|multiprocessing)(\..*)?|asyncio\.(subprocess(\..*)?|create_subprocess_\w+)"
    r"|os\.(fork|forkpty|system|popen|posix_spawnp?|(exec|spawn)[lv]\w*)"
)
STARTERS = {
    "cli/daemon_process.py",
    "client/ssh_process.py",
    "cluster/build_run.py",
    "cluster/building.py",
    "cluster/gather.py",
    "cluster/images.py",
    "cluster/processes.py",
    "cluster/pyslurm_process.py",
    "cluster/runner.py",
    "pilot/leash.py",
    "registry/discovery.py",
    "replica/sweep.py",
    "testing/globus/gridftp.py",
}
# Loaded by no other file. Slurm's C code, which comes with pyslurm, may end the process that imports it.
LOADERS = {"mpi4py": {"replica/mpi.py", "pilot/broadcast.py"}, "pyslurm": {"cluster/pyslurm_helper.py"}}


def area_of(file: Path, package: Path) -> str:
    inside = file.relative_to(package).parts
    return "hpcserve" if inside == ("__init__.py",) else inside[0].removesuffix(".py")


def imported_names(tree: ast.Module, module: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import; ``module`` is the package that a relative one starts from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level + 1] if node.level else ()
            for alias in node.names:
                yield node.lineno, ".".join((*base, *filter(None, [node.module]), alias.name))


def imported_areas(file: Path, package: Path) -> Iterator[tuple[int, str]]:
    module = ("hpcserve", *file.relative_to(package).parts[:-1])
    for line, name in imported_names(ast.parse(file.read_text()), module):
        top, *rest = name.split(".")
        if top != "hpcserve" or rest in ([], ["__version__"]):
            continue
        is_module = (package / rest[0]).is_dir() or (package / f"{rest[0]}.py").is_file()
        yield line, rest[0] if is_module else "hpcserve"


def wrong(importer: str, imported: str) -> bool:
    if importer == imported:
        return False
    if importer in GROUND and imported in GROUND:
        return False
    return RANK[importer] >= RANK[imported] or (importer, imported) in NOT_EVEN_DOWN


def violations(package: Path) -> list[str]:
    found = []
    for file in sorted(package.rglob("*.py")):
        importer = area_of(file, package)
        # The package itself imports lazily, to hand names on.
        if importer == "hpcserve":
            continue
        for line, imported in imported_areas(file, package):
            if imported not in RANK or importer not in RANK:
                found.append(f"{file.relative_to(package)}:{line}: {importer} -> {imported}: not in ROWS")
            elif wrong(importer, imported):
                found.append(f"{file.relative_to(package)}:{line}: {importer} -> {imported}")
    return found


def test_no_import_of_the_project_runs_up(root: Path) -> None:
    assert violations(root / "hpcserve") == []


def test_every_area_of_the_project_has_its_row(root: Path) -> None:
    areas = {area_of(file, root / "hpcserve") for file in (root / "hpcserve").rglob("*.py")}
    assert areas - RANK.keys() == set()


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("wire/frames.py", "import hpcserve.client.dial"),
        ("wire/frames.py", "from hpcserve.core.queue import RequestQueue"),
        ("wire/frames.py", "from hpcserve.core import queue"),
        ("wire/frames.py", "from hpcserve import core"),
        ("wire/frames.py", "from hpcserve import Client"),
        ("wire/frames.py", "from ..core import queue"),
        ("wire/deep/er.py", "from ...core.queue import RequestQueue"),
        ("wire/frames.py", "from .. import client"),
        ("wire/frames.py", "if TYPE_CHECKING:\n    from hpcserve.client import dial"),
        ("wire/frames.py", "def later():\n    from hpcserve.client import dial"),
        ("wire/__init__.py", "from hpcserve.config import Site"),
        ("errors.py", "from hpcserve.wire import frames"),
        ("daemon/broker.py", "import hpcserve.client as peer"),
        ("cluster/local.py", "import hpcserve.servable"),
        ("replica/loop.py", "import hpcserve.config"),
        ("newcomer.py", "import hpcserve.config"),
    ],
)
def test_an_arrow_that_runs_up_or_aside_is_found(tmp_path: Path, importer: str, statement: str) -> None:
    package = made_up(tmp_path)
    place(package / importer, statement)
    assert len(violations(package)) == 1


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("client/dial.py", "from hpcserve.wire.frames import encode"),
        ("client/dial.py", "from . import call"),
        ("client/dial.py", "from hpcserve import __version__, wire"),
        ("client/dial.py", "import hpcserve"),
        ("registry/store.py", "from hpcserve.servable import manifest"),
        ("config.py", "from hpcserve.errors import ConfigError"),
        ("examples/pi/pi.py", "from hpcserve import Tensor, method"),
        ("wire/frames.py", "import client, hpcserve_plugins.client"),
    ],
)
def test_an_arrow_that_runs_down_is_not(tmp_path: Path, importer: str, statement: str) -> None:
    package = made_up(tmp_path)
    place(package / importer, statement)
    assert violations(package) == []


def foreign(package: Path) -> list[str]:
    """Modules of others where they do not belong, and processes started where none may be."""
    found = []
    for file in sorted(package.rglob("*.py")):
        place, tree = str(file.relative_to(package)), ast.parse(file.read_text())
        forbidden = FOREIGN.get(area_of(file, package), set())
        names = list(imported_names(tree, ("hpcserve", *file.relative_to(package).parts[:-1])))
        loaded = [(line, name, LOADERS.get(name.partition(".")[0], {place})) for line, name in names]
        found += [f"{place}:{line}: {name}" for line, name, loaders in loaded if place not in loaders]
        names += [(node.lineno, ast.unparse(node)) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        found += [f"{place}:{line}: {name}" for line, name in names if name.partition(".")[0] in forbidden]
        if place not in STARTERS:
            found += [f"{place}:{line}: {name}" for line, name in names if STARTS.fullmatch(name)]
    return sorted(set(found))


def test_modules_of_others_are_where_they_belong(root: Path) -> None:
    assert foreign(root / "hpcserve") == []


def test_each_file_that_may_start_processes_does(root: Path) -> None:
    for place in STARTERS:
        assert STARTS.search((root / "hpcserve" / place).read_text())


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("wire/frames.py", "import logging"),
        ("wire/frames.py", "from time import monotonic"),
        ("wire/frames.py", "import sys"),
        ("wire/frames.py", "def later():\n    from tempfile import TemporaryFile"),
        ("replica/loop.py", "import typer"),
        ("replica/loop.py", "from rich.table import Table"),
        ("servable/api.py", "import psutil"),
        ("daemon/starter.py", "import subprocess"),
        ("daemon/child.py", "from subprocess import run"),
        ("pilot/agent.py", "import os\nos.system('ls')"),
        ("daemon/child.py", "import asyncio\nasyncio.create_subprocess_exec('ls')"),
        ("daemon/child.py", "from asyncio.subprocess import Process"),
        ("pilot/agent.py", "from os import posix_spawn"),
        ("cluster/local.py", "import os\nos.execvp('ls', ['ls'])"),
        ("cluster/slurm.py", "def later():\n    import pyslurm"),
        ("cluster/slurm.py", "from pyslurm.core.error import RPCError"),
    ],
)
def test_a_module_that_does_not_belong_there_is_found(tmp_path: Path, importer: str, statement: str) -> None:
    place(tmp_path / "hpcserve" / importer, statement)
    assert len(foreign(tmp_path / "hpcserve")) == 1


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("wire/frames.py", "import struct, json"),
        ("replica/loop.py", "import os, signal, time, zmq"),
        ("cluster/processes.py", "import subprocess"),
        ("cluster/pyslurm_helper.py", "import pyslurm"),
        ("daemon/child.py", "import os\nos.environ, os.kill"),
    ],
)
def test_a_module_that_belongs_there_is_not(tmp_path: Path, importer: str, statement: str) -> None:
    place(tmp_path / "hpcserve" / importer, statement)
    assert foreign(tmp_path / "hpcserve") == []


def made_up(tmp_path: Path) -> Path:
    package = tmp_path / "hpcserve"
    for area in RANK.keys() - GROUND - {"hpcserve"}:
        place(package / area / "__init__.py", "")
    for area in GROUND:
        place(package / f"{area}.py", "")
    return package


def place(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
