"""What runs inside other people's images, under another Python than this one: its own tests, in a container.

The image and the packages are kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.cluster.gather import gather_into
from hpcserve.cluster.images import Images, Interpreter
from hpcserve.cluster.packages import extra, requirements
from hpcserve.wire.launch import ContainerRules
from tests.integration import debian, images

pytestmark = pytest.mark.timeout(1500)

# Debian's releases and their Python, the newer one first: the first that is not ours is taken.
RELEASES = {"trixie": (3, 13), "bookworm": (3, 11)}
PACKAGES = ("python3", "python3-venv", "bash", "coreutils", "sed", "libstdc++6", "environment-modules")
OF_TESTS = ("hypothesis", "pytest", "pytest-timeout", "scikit-learn", "joblib")
TESTED = ("wire", "core", "servable", "replica")
# What needs torch, of which there is no small build for every Python, a C compiler, or globus-sdk, which replicas lack.
LEFT_OUT = (
    "--ignore-glob=*/test_torch_*",
    "--ignore=tests/unit/core/test_claims.py",
    "--deselect=tests/unit/replica/test_binding.py::test_a_process_and_its_threads_are_bound_near_its_gpu",
)


def other() -> tuple[Path, Interpreter]:
    """An image with another Python, and what it says of itself."""
    images.need_apptainer()
    release = next(name for name, python in RELEASES.items() if python != sys.version_info[:2])
    image = debian.image(release, PACKAGES, config.cache_dir() / "tests")
    looking = Images(ContainerRules(runtime="apptainer"), os.environ, timeout_s=120.0)
    return image, looking.python(str(image), "python3")


def gathered(found: Interpreter) -> Path:
    """The packages that its tests need there."""
    stated = [*extra("dev"), *extra("sklearn")]
    wanted = (
        *requirements(),
        *(each for name in OF_TESTS for each in stated if each.startswith((f"{name}<", f"{name}>"))),
    )
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    place = config.cache_dir() / "tests" / f"python{found.python[0]}.{found.python[1]}-{key}"
    gather_into(place, wanted, found.python, found.machine, found.libc, compiled=lambda _: None)
    return place


def test_the_replica_s_side_passes_its_tests_under_another_python(root: Path, tmp_path: Path) -> None:
    image, found = other()
    assert found.python[:2] != sys.version_info[:2]
    binds = [f"{root}:{root}:ro", f"{gathered(found)}:{found.purelib}:ro", f"{tmp_path}:/scratch"]
    command = ["apptainer", "--silent", "exec", "--containall", "--no-home", "--pwd", str(root)]
    command += [word for bind in binds for word in ("--bind", bind)]
    command += ["--env", "PYTHONDONTWRITEBYTECODE=1", str(image), "python3", "-m", "pytest", "--quiet"]
    command += ["-p", "no:cacheprovider", "--basetemp=/scratch/tests", "--hypothesis-profile=brief", *LEFT_OUT]
    done = subprocess.run(
        [*command, *(f"tests/unit/{each}" for each in TESTED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-4000:]
