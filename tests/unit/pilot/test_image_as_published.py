"""An image is run as it was published, with what it lacks, or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hpcserve.errors import ManifestError
from hpcserve.pilot.contained import check_image
from hpcserve.servable.manifest import Environment, Image


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    image, packages = tmp_path / "a.sif", tmp_path / "packages"
    image.write_bytes(b"image")
    packages.mkdir()
    seen = image.stat()
    published = Image(
        sha256="0" * 64,
        size_bytes=seen.st_size,
        mtime_ns=seen.st_mtime_ns,
        python="3.11",
        packages=str(packages),
    )
    return Environment(kind="container", image=str(image), published=published)


def test_it_is_taken_as_it_was(environment: Environment) -> None:
    check_image(environment)


def test_one_that_changed_is_refused(environment: Environment) -> None:
    Path(str(environment.image)).write_bytes(b"another image")
    with pytest.raises(ManifestError, match="changed after the servable was published .* deploy the servable again$"):
        check_image(environment)


def test_packages_that_are_gone_are_told_with_what_gathers_them(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "packages").rmdir()
    with pytest.raises(ManifestError, match=r"packages: not there any more.*container runtime .*a\.sif, then publish"):
        check_image(environment)


def test_nobody_has_looked_at_it(environment: Environment) -> None:
    with pytest.raises(ManifestError, match="nobody has looked at it yet; publish the servable again"):
        check_image(msgspec.structs.replace(environment, published=None))
