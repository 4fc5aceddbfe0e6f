"""What every test gets: no trace of the user's own hpcserve or shell, and hypothesis without a clock."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration import images
from tests.order import in_turns

# A busy machine makes an example slow, not wrong. Whoever searches for new examples says --hypothesis-profile=search.
settings.register_profile("search", deadline=None, print_blob=True)
settings.register_profile("hpcserve", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("brief", deadline=None, print_blob=True, derandomize=True, max_examples=10)
settings.load_profile("hpcserve")

# What started us hands these on to all that a test starts: a shell that runs us in the background ignores Ctrl-C, and
# the width of another terminal is not that of a test's.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers take files in the order in which they were collected: see the Makefile."""
    if not hasattr(config, "workerinput"):
        return
    default_s = float(config.getini("timeout"))
    timeouts_s: dict[str, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        allowed_s = float(marker.args[0]) if marker else default_s
        timeouts_s[_file_of(item)] = max(allowed_s, timeouts_s.get(_file_of(item), 0.0))
    turns = {file: turn for turn, file in enumerate(in_turns(timeouts_s))}
    items.sort(key=lambda item: turns[_file_of(item)])


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in os.environ:
        if name.startswith("HPCSERVE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def root() -> Path:
    """The directory of the project."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images of one run of the tests are, whichever of its processes makes them."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "images"


@pytest.fixture(scope="session")
def python_image(image_dir: Path) -> Path:
    """An Apptainer image with this machine's Python and nothing else; skips where there is no Apptainer."""
    images.need_apptainer()
    return images.cached("python", image_dir)


@pytest.fixture(scope="session")
def mpi_image(python_image: Path, image_dir: Path) -> Path:
    """The same with MPICH and mpi4py."""
    return images.mpi(python_image, image_dir)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A key to sign images with, its public half, and the public half of another one."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("site", "other"):
        openssl = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(place / f"{name}.pem")]
        subprocess.run(openssl, check=True, capture_output=True)
        openssl = ["openssl", "pkey", "-in", str(place / f"{name}.pem"), "-pubout", "-out", str(place / f"{name}.pub")]
        subprocess.run(openssl, check=True, capture_output=True)
    return place / "site.pem", place / "site.pub", place / "other.pub"
