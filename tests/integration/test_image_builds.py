"""``hpcserve container build``: images of servables, made by the real Apptainer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.daemon.images import SiteContainers
from hpcserve.registry.manifest_file import read_manifest
from tests.integration import images

pytestmark = pytest.mark.timeout(600)

SITE = '[containers]\nruntime = "apptainer"\n'


def build(
    place: Path, *options: str, cache: Path | None = None, site_file: str = SITE
) -> subprocess.CompletedProcess[str]:
    """Builds the image of the servable in a directory, beside which a site file lies."""
    site = place.parent / "site.toml"
    site.write_text(site_file)
    variables = images.builder_environment() | {"HPCSERVE_SITE": str(site)}
    if cache is not None:
        variables["XDG_CACHE_HOME"] = str(cache)
    argv = [sys.executable, "-m", "hpcserve.cli.main", "container", "build", str(place), *options]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)


def servable(place: Path, image: Path, build: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text("")
    (place / "weights 1.bin").write_bytes(b"w")
    (place / "servable.toml").write_text(
        'name = "built"\nloader = "python"\nentry = "model:run"\n'
        f'[environment]\nkind = "container"\nimage = "{image}"\n[environment.build]\n{build}'
    )
    return place


def told(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed, in one line."""
    return " ".join((done.stdout + done.stderr).split())


def test_an_image_is_built_of_what_the_manifest_says_and_not_twice(
    python_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    image = tmp_path / "an image.sif"
    text = (
        f'base = "{python_image}"\nfiles = ["weights 1.bin:/opt/model/weights.bin"]\n'
        'post = ["cat /opt/model/weights.bin > /opt/model/copy"]\n'
    )
    place = servable(tmp_path / "built", image, text)
    done = build(place, cache=image_dir)
    assert (done.returncode, done.stdout.strip()) == (0, f"built {image}"), told(done)
    assert f"building {image}" in told(done)
    inside = subprocess.run(
        ["apptainer", "--silent", "exec", "--containall", "--no-home", str(image), "cat", "/opt/model/copy"],
        capture_output=True,
        check=True,
    )
    assert inside.stdout == b"w"
    code = "import os, numpy; print(os.path.exists(numpy.__cached__))"
    compiled = subprocess.run(
        ["apptainer", "--silent", "exec", "--containall", "--no-home", str(image), "python3", "-c", code],
        capture_output=True,
        check=True,
    )
    assert compiled.stdout == b"True\n", "each start of a replica would compile it again"
    # It has all that a replica needs: nothing has to be gathered.
    published = SiteContainers(config.load_site(str(tmp_path / "site.toml")), timeout_s=60.0).published(
        read_manifest(place)
    )
    assert published.published is not None
    assert published.published.packages == ""

    before = image.stat()
    again = build(place, cache=image_dir)
    assert again.stdout.strip() == f"there already: {image}"
    assert image.stat() == before

    servable(place, image, text.replace("cat /opt", "false && cat /opt"))
    failed = build(place, cache=image_dir)
    assert failed.returncode == 1
    assert f"image {image} was not built" in told(failed)
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(each.name for each in tmp_path.iterdir()) == ["an image.sif", "built", "site.toml"]


def test_files_keep_their_names_in_a_directory_and_no_signature_is_asked_for(
    python_image: Path, image_dir: Path, tmp_path: Path, keys: tuple[Path, Path, Path]
) -> None:
    """What is built is signed afterwards, and what it is built of may be hpcserve's own, which nobody signs."""
    image = tmp_path / "named.sif"
    text = (
        f'base = "{python_image}"\n'
        'files = ["weights 1.bin:/opt/model/", "more data:/opt/model", ".hidden:/etc", "more data:/opt/as-it-is"]\n'
    )
    place = servable(tmp_path / "built", image, text)
    (place / ".hidden").write_text("h")
    (place / "more data").mkdir()
    (place / "more data" / "1.txt").write_text("1")
    done = build(place, cache=image_dir, site_file=f'{SITE}signature_key = "{keys[1]}"\n')
    assert done.returncode == 0, told(done)
    walk = "sorted(f'{d}/{f}' for d, _, fs in os.walk('/opt') for f in fs)"
    code = f"import os; print(*{walk}, *os.listdir('/etc'), sep='|')"
    listed = subprocess.run(
        ["apptainer", "--silent", "exec", str(image), "python3", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    found = listed.stdout.strip().split("|")
    assert found[:3] == ["/opt/as-it-is/1.txt", "/opt/model/more data/1.txt", "/opt/model/weights 1.bin"]
    assert ".hidden" in found[3:]


def test_what_cannot_be_built_is_told(python_image: Path, tmp_path: Path) -> None:
    image = tmp_path / "x.sif"
    base = f'base = "{python_image}"\n'
    for text, why in (
        (base + 'files = ["nowhere:/opt/x"]\n', f"environment.build.files: there is no {tmp_path}/built/nowhere"),
        ('base = "/nowhere.sif"\n', "image /nowhere.sif: No such file or directory"),
    ):
        done = build(servable(tmp_path / "built", image, text))
        assert done.returncode != 0
        assert why in told(done)
    plain = servable(tmp_path / "built", image, "")
    (plain / "servable.toml").write_text('name = "built"\nloader = "python"\nentry = "model:run"\n')
    assert "nothing to build" in told(build(plain))
    assert not image.exists()


def test_where_there_is_no_mirror_the_standard_image_says_so(tmp_path: Path) -> None:
    images.need_apptainer()
    (tmp_path / "bin").mkdir()
    for name in ("sh", "apptainer"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    place = servable(tmp_path / "built", tmp_path / "x.sif", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "PATH", str(tmp_path / "bin"))
        done = build(place, cache=tmp_path / "cache")
    assert "no Debian mirror is known here" in told(done)
    assert "--mirror URL" in told(done)
