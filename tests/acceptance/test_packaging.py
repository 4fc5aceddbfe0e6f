"""What is handed to users: the wheel in an empty environment, and the Makefile's first words."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# Mapped into the package by setup.cfg.
DATA_DIRECTORIES = ("containers", "jobscripts", "site_configs")
FAKES = Path(__file__).resolve().parents[1] / "fakes"

# Building, installing scikit-learn from a cold cache, and the demo.
slow = pytest.mark.timeout(900)


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def carried(root: Path) -> dict[str, Path]:
    """Every file that an installation needs, by its name in the wheel."""
    places = {"hpcserve": root / "hpcserve"} | {f"hpcserve/{name}": root / name for name in DATA_DIRECTORIES}
    return {
        f"{name}/{file.relative_to(place)}": file
        for name, place in places.items()
        for file in place.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: an old ``build/`` in the tree would slip deleted files in, and be left behind."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in ("hpcserve", *DATA_DIRECTORIES):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", ".", "./source", cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that holds the wheel, its dependencies and nothing else."""
    directory = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "venv", cwd=directory)
    run("venv/bin/python", "-m", "pip", "install", "--quiet", f"{wheel}[sklearn]", cwd=directory)
    return directory / "venv" / "bin"


def newcomer(home: Path, path: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{path}:/usr/bin:/bin", "LANG": "C.UTF-8"}


def processes_of(home: Path) -> list[str]:
    """The command lines of the processes that were started with this home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if f"HOME={home}".encode() in environment.split(b"\0"):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_setup_cfg_names_every_package(root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    named = setup["options"]["packages"].split()
    inits = [name for name in carried(root) if name.endswith("/__init__.py")]
    assert sorted(named) == sorted(name.removesuffix("/__init__.py").replace("/", ".") for name in inits)


@slow
def test_the_wheel_carries_every_file(root: Path, wheel: Path) -> None:
    expected = {name: file.read_bytes() for name, file in carried(root).items()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert sorted(found) == sorted(expected)
    assert found == expected


@slow
def test_the_installed_package_reads_its_site_files(installed: Path, empty_home: Path, tmp_path: Path) -> None:
    program = (
        "import hpcserve; from hpcserve.config import load_site; print(hpcserve.__file__, load_site('local').name)"
    )
    said = run(installed / "python", "-c", program, cwd=tmp_path, env=newcomer(empty_home, installed))
    file, name = said.split()
    assert Path(file).is_relative_to(installed.parent)
    assert name == "local"


@slow
def test_the_installed_demo_serves_its_models_and_leaves_nothing_running(
    installed: Path, empty_home: Path, tmp_path: Path
) -> None:
    said = run(installed / "hpcserve", "demo", "--json", cwd=tmp_path, env=newcomer(empty_home, installed))
    answer = json.loads(said)
    assert 0.96 < answer["digits"]["accuracy"] < 1.0
    assert answer["pi"]["correct"] is True
    assert processes_of(empty_home) == []


def made(root: Path, directory: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    """``make demo`` in an empty directory that has the Makefile."""
    shutil.copy(root / "Makefile", directory)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(root / name, directory)
    environment = {"HOME": str(directory), "PATH": path, "REAL_PYTHON": sys.executable}
    return subprocess.run(
        ["make", "demo", *arguments], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_a_missing_ensurepip_is_one_line_and_no_directory(root: Path, tmp_path: Path) -> None:
    done = made(root, tmp_path, path=f"{FAKES / 'no-ensurepip'}:{os.environ['PATH']}")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("python3 has no ensurepip")
    assert line.endswith("apt-get install python3-venv")
    assert not (tmp_path / ".venv").exists()


def test_a_python_that_is_too_old_is_one_line_and_no_directory(root: Path, tmp_path: Path) -> None:
    old = FAKES / "too-old" / "python3"
    done = made(root, tmp_path, f"PYTHON={old}", path=os.environ["PATH"])
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert line.startswith("hpcserve needs Python 3.11 or newer")
    assert str(old) in line
    assert not (tmp_path / ".venv").exists()
