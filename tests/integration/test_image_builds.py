"""``hpcserve container build``: images of servables, made by the real Apptainer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.daemon.images import SiteContainers
from hpcserve.registry.manifest_file import read_manifest
from tests.integration import images
from tests.integration.daemon_tree import until

pytestmark = pytest.mark.timeout(600)

COMMAND = (sys.executable, "-m", "hpcserve.cli.main", "container", "build")
LEAVE = """import os, sys
if not os.fork():
    os.setsid()
    os.execvp(sys.argv[1], sys.argv[1:])
"""
"""A program that leaves a command running, in a session of its own."""
SITE = '[containers]\nruntime = "apptainer"\n'


def build(
    place: Path, *options: str, cache: Path | None = None, site_file: str = SITE
) -> subprocess.CompletedProcess[str]:
    """Builds the image of the servable in a directory, beside which a site file lies."""
    (place.parent / "site.toml").write_text(site_file)
    return subprocess.run(
        [*COMMAND, str(place), *options], env=variables(place, cache), capture_output=True, text=True, check=False
    )


def variables(place: Path, cache: Path | None) -> dict[str, str]:
    """Of a build of the servable there, whose site file lies beside it."""
    told = os.environ | {"HPCSERVE_SITE": str(place.parent / "site.toml")}
    return told if cache is None else told | {"XDG_CACHE_HOME": str(cache)}


def servable(place: Path, image: Path, build: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.py").write_text("")
    (place / "leave.py").write_text(LEAVE)
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
    python_image: Path, image_dir: Path, tmp_path: Path, keys: tuple[Path, Path, Path]
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

    images.signed(image, image.with_name("signed.sif"), keys[0]).replace(image)
    assert build(place, cache=image_dir).stdout.strip() == f"there already: {image}", "its signature would be lost"
    size = image.stat().st_size
    for cut in (True, False):
        if cut:
            os.truncate(image, size // 2)
        else:
            images.flip(image, size // 2)
        mended = build(place, cache=image_dir)
        assert mended.stdout.strip() == f"built {image}", told(mended)
        assert f"{image} is not what was built any more: it is built anew" in told(mended)
        assert image.stat().st_size == before.st_size
    before = image.stat()

    servable(place, image, text.replace("cat /opt", "false && cat /opt"))
    failed = build(place, cache=image_dir)
    assert failed.returncode == 1
    assert f"image {image} was not built" in told(failed)
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(each.name for each in tmp_path.iterdir()) == ["an image.sif", "built", "site.toml"]


def processes(command: str) -> list[str]:
    """The processes with this command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip() == command.encode():
                found.append(entry.name)
    return found


def test_what_a_command_leaves_running_ends_with_the_build(python_image: Path, image_dir: Path, tmp_path: Path) -> None:
    """It is in a session of its own and holds the build's output, which is not waited for; and the image is there."""
    sleeper = f"sleep 7{os.getpid()}"
    text = f'base = "{python_image}"\nfiles = ["leave.py:/opt/leave.py"]\npost = ["python3 /opt/leave.py {sleeper}"]\n'
    place = servable(tmp_path / "left", tmp_path / "x.sif", text)
    done = build(place, cache=image_dir)
    assert (done.returncode, done.stdout.strip()) == (0, f"built {tmp_path / 'x.sif'}"), told(done)
    until(lambda: not processes(sleeper), "what was left is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_ended_leaves_nothing(
    python_image: Path, image_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    sleeper = f"sleep 6{os.getpid()}"
    image, temporary = tmp_path / "images" / "x.sif", tmp_path / "temporary"
    text = f'base = "{python_image}"\nfiles = ["leave.py:/opt/leave.py"]\n'
    place = servable(tmp_path / "ended", image, f'{text}post = ["python3 /opt/leave.py {sleeper}", "{sleeper}"]\n')
    (tmp_path / "site.toml").write_text(SITE)
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(
            [*COMMAND, str(place)],
            env=variables(place, image_dir) | {"TMPDIR": str(temporary)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        ) as process,
    ):
        try:
            until(lambda: len(processes(sleeper)) == 2 or process.poll() is not None, "it builds", 120.0)
            assert [each.name[:14] for each in temporary.iterdir()] == ["hpcserve-build"]
            process.send_signal(number)
            assert process.wait(60.0) == 128 + number, (tmp_path / "said").read_text()
        finally:
            process.kill()
    until(lambda: not processes(sleeper), "what ran inside is gone")
    assert list(temporary.iterdir()) == []
    assert list(image.parent.iterdir()) == []
    assert not list((image_dir / "hpcserve").glob(f"hpcserve-build-*-{process.pid}-*"))


def test_of_two_builds_of_one_image_at_once_the_second_waits(
    python_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    place = servable(tmp_path / "twice", tmp_path / "x.sif", f'base = "{python_image}"\npost = ["sleep 1"]\n')
    (tmp_path / "site.toml").write_text(SITE)
    two = [
        subprocess.Popen(
            [*COMMAND, str(place)],
            env=variables(place, image_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240.0) for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    assert sorted(out.partition(":")[0].split()[0] for out, _ in said) == ["built", "there"], said
    assert sum("waiting for another process" in " ".join(err.split()) for _, err in said) == 1, said


def test_a_disk_that_is_full_is_told_in_a_line(python_image: Path, image_dir: Path, tmp_path: Path) -> None:
    image = tmp_path / "x.sif"
    post = '["true && cat /etc/passwd >/dev/full"]'
    done = build(servable(tmp_path / "full", image, f'base = "{python_image}"\npost = {post}\n'), cache=image_dir)
    assert done.returncode == 8
    assert f"image {image} was not built: no room where it is written, or in " in told(done)
    assert "No space left on device" in told(done)
    assert "+ cat" not in told(done)


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
        (base + 'post = ["true", "false"]\n', f"image {image} was not built"),
        ('base = "/nowhere.sif"\n', "image /nowhere.sif: No such file or directory"),
    ):
        done = build(servable(tmp_path / "built", image, text))
        assert done.returncode != 0
        assert why in told(done)
    done = build(servable(tmp_path / "built", tmp_path, base))
    assert f"environment.image: {tmp_path} is a directory; give the path of a file" in told(done)
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
