"""The packages that images may lack, and what hpcserve asks of those that they have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcserve.cluster.images import Interpreter, check_versions
from hpcserve.cluster.packages import gathering, least_versions, requirements, runtime_dir
from hpcserve.errors import ConfigError, ManifestError


def interpreter(*python: int, **packages: str) -> Interpreter:
    return Interpreter(python=python, machine="x86_64", libc="2.36", purelib="/lib", packages=packages)


def test_what_is_gathered_is_what_hpcserve_itself_requires() -> None:
    names = [each.partition("<")[0].partition(">")[0] for each in requirements()]
    assert names == ["h5py", "ml_dtypes", "msgspec", "numpy", "nvidia-ml-py", "pyzmq"]
    assert "nvidia-ml-py" not in dict(least_versions().values()), "an image may do without"
    assert least_versions()["zmq"] == ("pyzmq", "27")
    assert least_versions()["mpi4py"] == ("mpi4py", "4.1")
    assert set(requirements(ranks=True)) == {*requirements(), "mpi4py<5,>=4.1"}


def test_pip_is_told_for_which_python_and_machine() -> None:
    argv = gathering(Path("/to"), requirements(), (3, 10, 4), "aarch64", "2.28")
    assert argv[: argv.index("--target")] == (
        *("install", "--no-compile", "--quiet", "--only-binary=:all:", "--implementation=cp", "--python-version=3.10"),
        *(
            "--platform=manylinux_2_28_aarch64",
            "--platform=manylinux_2_27_aarch64",
            "--platform=manylinux_2_26_aarch64",
        ),
        *("--platform=manylinux_2_17_aarch64", "--platform=manylinux2014_aarch64"),
    )
    assert argv[argv.index("--target") :] == ("--target", "/to", *requirements())


def test_packages_are_shared_by_images_of_one_python_machine_and_c_library() -> None:
    place = runtime_dir(Path("/shared"), (3, 12, 1), "x86_64", "2.36")
    assert place == runtime_dir(Path("/shared"), (3, 12, 7), "x86_64", "2.41")
    assert place.parent == Path("/shared/runtimes")
    assert place.name.startswith("python3.12-x86_64-glibc2.34-")
    assert place != runtime_dir(Path("/shared"), (3, 12, 7), "aarch64", "2.36")
    older = runtime_dir(Path("/shared"), (3, 12, 1), "x86_64", "2.31")
    assert older.name.startswith("python3.12-x86_64-glibc2.28-")
    ranks = runtime_dir(Path("/shared"), (3, 12, 1), "x86_64", "2.36", ranks=True)
    assert ranks.name.startswith("python3.12-x86_64-glibc2.34-ranks-")


@pytest.mark.parametrize(("libc", "told"), [("", "is none of GNU's (Alpine has musl)"), ("2.12", "is glibc 2.12")])
def test_for_another_c_library_no_packages_are_gathered(libc: str, told: str) -> None:
    message = f"no packages can be gathered for it: its C library {told}, and they are made for glibc 2.17 or later"
    with pytest.raises(ConfigError, match=re.escape(message)):
        runtime_dir(Path("/shared"), (3, 12, 1), "x86_64", libc)
    with pytest.raises(ConfigError, match=re.escape(message)):
        gathering(Path("/to"), requirements(), (3, 12, 1), "x86_64", libc)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (interpreter(3, 9, 18), "its Python is 3.9.18, and hpcserve needs 3.10 or later in an image"),
        (interpreter(3, 10, 0, numpy="1.26.4"), "its numpy is 1.26.4, and hpcserve here needs 2.0 or later"),
        (
            interpreter(3, 12, 1, zmq="26.2.0", numpy="2.1.0"),
            "its pyzmq is 26.2.0, and hpcserve here needs 27 or later",
        ),
    ],
)
def test_what_is_too_old_is_told_with_both_sides(found: Interpreter, told: str) -> None:
    with pytest.raises(ManifestError, match=f"image /a.sif: {told}"):
        check_versions("/a.sif", found)


def test_what_is_new_enough_or_missing_is_no_error() -> None:
    check_versions("/a.sif", interpreter(3, 10, 0))
    old = interpreter(3, 10, 0, mpi4py="3.1.6")
    check_versions("/a.sif", old)
    with pytest.raises(ManifestError, match=r"its mpi4py is 3.1.6, and hpcserve here needs 4.1 or later"):
        check_versions("/a.sif", old, ranks=True)
    check_versions("/a.sif", interpreter(3, 14, 0, zmq="27.0.1", msgspec="0.21.0", numpy="2.10.0rc1"))
