"""The image on which those of servables stand by default: Debian, from the mirror of this machine's own apt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import images
from tests.integration.test_image_builds import build, servable, told


@pytest.mark.timeout(900)
def test_a_servable_without_a_base_stands_on_debian_s_own_python(tmp_path: Path) -> None:
    """Takes minutes where the standard image is not in the user's cache yet."""
    images.need_apptainer()
    image = tmp_path / "standard.sif"
    done = build(servable(tmp_path / "built", image, "post = [\"python3 -c 'import zmq, msgspec, numpy'\"]\n"))
    assert (done.returncode, done.stdout.strip()) == (0, f"built {image}"), told(done)
