"""Servables in containers of the real Apptainer: a daemon, its pilot, and replicas that bring an image along."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from msgspec.structs import replace

from hpcserve import Client, Reference, __version__
from hpcserve.cluster.gather import gather_into, is_gathered, run_pip
from hpcserve.cluster.images import Runtime
from hpcserve.cluster.packages import gathering
from hpcserve.config import Access, Containers, Globus, Mpi, Rules, Site, Staging
from hpcserve.daemon.images import SiteContainers, runtime_finding
from hpcserve.errors import ConfigError, HpcserveError, ManifestError
from hpcserve.pilot.contained import check_image
from hpcserve.servable.manifest import Environment, Manifest, Ranks
from hpcserve.wire import admin
from hpcserve.wire.messages import WIRE_VERSIONS
from tests.integration import images
from tests.integration.daemon_tree import Daemon, deployment, is_alive, until

# The last one lets a daemon's tree of processes be found, in containers too.
OVERRIDES = {"containers": {"runtime": "apptainer", "environment": ["TEST_DAEMON"]}}
PARTY = "00000000-0000-0000-0000-00000000000a"
CODE = """
import json, os, subprocess, sys
import numpy as np
from hpcserve import Tensor, method

class Model:
    def setup(self, context):
        self.directory = str(context.directory)

    @method(inputs={"x": Tensor("float64", (-1,))}, outputs={"y": Tensor("float64", (-1,))})
    def double(self, x):
        return 2 * x

    @method(inputs={"path": Tensor("BYTES", ())}, outputs={"seen": Tensor("JSON", ())})
    def look(self, path):
        path = path.item().decode()
        return {
            "there": os.path.exists(path),
            "directory": self.directory,
            "files": sorted(os.listdir(self.directory)),
            "variables": sorted(os.environ),
            "numpy": np.__file__,
        }

    @method(inputs={}, outputs={"pid": Tensor("int64", ())})
    def spawn(self):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        return np.int64(child.pid)

    @method(inputs={"size": Tensor("int64", ())}, outputs={"said": Tensor("BYTES", ())})
    def fill(self, size):
        try:
            os.truncate(os.open("/tmp/full", os.O_CREAT | os.O_WRONLY), 0)
            os.posix_fallocate(os.open("/tmp/full", os.O_WRONLY), 0, int(size))
        except OSError as error:
            return os.strerror(error.errno)
        return "there was room"
"""


def servable(place: Path, image: Path, name: str = "boxed", **environment: str) -> Path:
    """A servable's directory."""
    place.mkdir(exist_ok=True)
    (place / "model.py").write_text(CODE)
    fields = {"kind": "container", "image": str(image), **environment}
    lines = [f'name = "{name}"', 'loader = "python"', 'entry = "model:Model"', "[environment]"]
    lines += [f"{field} = {json.dumps(value)}" for field, value in fields.items()]
    (place / "servable.toml").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def equipped(daemon: Daemon, python_image: Path, image_dir: Path) -> Daemon:
    """The module's daemon, with the packages that the image lacks."""
    assert python_image.exists()
    images.packages(daemon.shared, image_dir)
    return daemon


@pytest.fixture(scope="module")
def client(equipped: Daemon) -> Iterator[Client]:
    with equipped.client() as made:
        yield made


@pytest.fixture(scope="module")
def boxed(equipped: Daemon, client: Client, python_image: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The endpoint of a servable in a container."""
    endpoint = equipped.deploy(client, servable(tmp_path_factory.mktemp("servable") / "boxed", python_image))
    equipped.replica_pids(client, endpoint)
    return endpoint


def seen(client: Client, endpoint: str, path: Path) -> Any:
    return client.infer(f"{endpoint}.look", str(path).encode())["seen"]


def test_a_servable_in_a_container_answers_and_says_by_which_image(
    client: Client, boxed: str, python_image: Path
) -> None:
    outputs = client.infer(f"{boxed}.double", np.arange(3.0))
    assert outputs["y"].tolist() == [0.0, 2.0, 4.0]
    assert outputs.image == hashlib.sha256(python_image.read_bytes()).hexdigest()


def test_it_sees_its_files_and_nothing_of_the_service(equipped: Daemon, client: Client, boxed: str) -> None:
    found = seen(client, boxed, equipped.state)
    assert found["there"] is False
    assert found["directory"] == "/opt/hpcserve/servable"
    assert found["files"] == ["model.py", "servable.toml"]
    assert found["numpy"].startswith("/opt/hpcserve/packages/")
    assert not {name for name in found["variables"] if name.startswith("HPCSERVE_")}
    assert "TEST_DAEMON" in found["variables"]
    for path in (equipped.shared, equipped.home, equipped.shared / "enrolments"):
        assert seen(client, boxed, path)["there"] is False
    assert seen(client, boxed, Path("/opt/hpcserve/record/service.json"))["there"] is True
    assert [each.name for each in (equipped.shared / "record").iterdir()] == ["service.json"]


def test_it_writes_large_results_to_a_file_of_the_site(equipped: Daemon, client: Client, boxed: str) -> None:
    outputs = client.infer(f"{boxed}.double", np.arange(2_000_000, dtype=np.float64))
    assert outputs.staged is not None
    assert outputs.staged.path.is_relative_to(equipped.shared / "staged")
    assert outputs["y"][-1] == 2 * 1_999_999
    with outputs.staged.open() as file:
        assert file.attrs["image"] == outputs.image != ""
    total = client.infer(f"{boxed}.double", Reference(f"file:{outputs.staged.path}#/y"), timeout_s=60)
    assert total["y"][1] == 4.0


def test_no_grandchild_outlives_a_container_that_is_killed(equipped: Daemon, client: Client, boxed: str) -> None:
    (replica,) = equipped.replica_pids(client, boxed)
    client.infer(f"{boxed}.spawn", {})

    def sleepers() -> list[str]:
        return [each for each in equipped.commands() if "sleep 600" in each]

    until(lambda: len(sleepers()) == 1, "the servable's own process runs")
    os.kill(replica, signal.SIGKILL)
    until(lambda: not is_alive(replica), "the container's process is gone")
    until(lambda: not sleepers(), "what the servable has started is gone")
    # The deployment goes on in a new container.
    assert client.infer(f"{boxed}.double", np.ones(1))["y"].tolist() == [2.0]


def test_a_full_tmp_is_the_container_s_own(client: Client, boxed: str) -> None:
    assert client.infer(f"{boxed}.fill", np.int64(1 << 50))["said"] == b"No space left on device"
    assert client.infer(f"{boxed}.double", np.ones(1))["y"].tolist() == [2.0]
    assert not Path("/tmp/full").exists()


# --- images that cannot serve ---------------------------------------------------------------------------


def damaged(image: Path, place: Path, *, size: int | None = None, arch: bytes = b"") -> Path:
    """A copy that was cut off, or made for other machines."""
    content = bytearray(image.read_bytes()[:size])
    if arch:  # Source: the SIF format: in the header, and in the third descriptor, which is the file system's
        for offset in (45, 4096 + 2 * 585 + 209):
            assert content[offset : offset + 3] != arch, "it would be right"
            content[offset : offset + 3] = arch
    place.write_bytes(content)
    return place


def flipped(image: Path, place: Path) -> Path:
    """A copy with bytes changed all over its file system."""
    shutil.copy(image, place)
    for at_byte in range(100_000, place.stat().st_size, 20_000):
        images.flip(place, at_byte)
    return place


def published(
    tmp_path: Path,
    image: Path,
    python: str = "python3",
    ranks: int = 1,
    mpi: dict[str, Any] | None = None,
    **containers: Any,
) -> Environment:
    """What a daemon would find, had it been asked to publish a servable with the image."""
    shared = tmp_path / "shared"
    site = Site(
        name="s",
        state_dir=tmp_path / "state",
        shared_dir=shared,
        containers=Containers(**{"runtime": "apptainer", **containers}),
        mpi=Mpi(**mpi or {}),
    )
    environment = Environment(kind="container", image=str(image), python=python)
    manifest = Manifest(name="boxed", loader="python", environment=environment, ranks=Ranks(size=ranks))
    return SiteContainers(site, timeout_s=60.0).published(manifest)


def test_where_one_account_serves_many_a_copy_of_the_image_is_what_runs(
    equipped: Daemon, python_image: Path, tmp_path: Path
) -> None:
    """The publisher's own lies where every container may write, and so replace it."""
    own = tmp_path / "staged" / "ada"
    own.mkdir(parents=True)
    image = Path(shutil.copy(python_image, own / "model.sif"))
    site = Site(
        name="s",
        mode="service",
        auth="globus",
        state_dir=tmp_path / "state",
        shared_dir=equipped.shared,
        globus=Globus(client_id=PARTY, native_client_id=PARTY),
        access=Access(administer=Rules(allow=("user:root@uni.edu",))),
        containers=Containers(runtime="apptainer"),
        staging=Staging(directory=str(own.parent), quota_bytes=1 << 30),
    )
    manifest = Manifest(
        name="boxed", loader="python", environment=Environment(kind="container", image=str(image), python="python3")
    )
    found = SiteContainers(site, timeout_s=60.0).published(manifest)
    assert found.published is not None
    assert found.image == f"{equipped.shared}/images/{found.published.sha256}.sif"
    image.write_bytes(b"another's")
    check_image(found)


def test_an_image_that_cannot_serve_is_told_at_publication(
    python_image: Path, image_dir: Path, tmp_path: Path, keys: tuple[Path, Path, Path]
) -> None:
    text = tmp_path / "text.sif"
    text.write_text("no image\n")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage\n")
    bare = images.cached("bare", image_dir, python=False)
    size = python_image.stat().st_size
    _, public, other = keys
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "nowhere.sif", {}, "No such file or directory; it must lie where"),
        (tmp_path, {}, "Is a directory"),
        (text, {}, "is no Apptainer image"),
        (
            damaged(python_image, tmp_path / "half.sif", size=size // 2),
            {},
            r"is damaged .*; remove it \(rm /",
        ),
        (flipped(python_image, tmp_path / "flipped.sif"), {}, r"is damaged .*; remove it \(rm /"),
        (damaged(python_image, tmp_path / "head.sif", size=20_000), {}, "is damaged or not whole"),
        (damaged(python_image, tmp_path / "arm.sif", arch=b"04\0"), {}, "is for machines of another architecture"),
        (bare, {}, "has no python3; name its interpreter by environment.python"),
        (python_image, {"python": "python9"}, "has no python9"),
        (python_image, {}, r"lacks pyzmq, msgspec, numpy; gather them once.*hpcserve container runtime"),
        (
            python_image,
            {"signature_key": str(public)},
            rf"not signed by the site's key, {public} \(Failed to .*: signature not found .*\); .*: apptainer sign ",
        ),
        (
            python_image,
            {"signature_key": str(garbage)},
            r"containers.signature_key: .* is no public key .*PEM decoding",
        ),
        (python_image, {"signature_key": "/nowhere.pub"}, "containers.signature_key: cannot read /nowhere.pub"),
        (python_image, {"binds": ("/nowhere",)}, "containers.binds: there is no /nowhere on this host"),
        (python_image, {"command": "/nowhere/apptainer"}, "containers.command: no command '/nowhere/apptainer' here"),
        (python_image, {"runtime": "none"}, "containers.runtime: 'none' runs no servables"),
    ]
    for image, containers, told in cases:
        with pytest.raises(HpcserveError, match=told) as raised:
            published(tmp_path, image, **containers)
        assert str(image) in raised.value.message or "containers." in told
    images.packages(tmp_path / "shared", image_dir)
    signed = images.signed(python_image, tmp_path / "signed.sif", keys[0])
    found = published(tmp_path, signed, signature_key=str(public)).published
    assert found is not None
    assert found.sha256 == hashlib.sha256(signed.read_bytes()).hexdigest()
    # Another signature would not help, as all are verified.
    by_another = rf"is not signed by the site's key, {other}, but by another one, .*: remove it \(rm {signed}\), build"
    with pytest.raises(ManifestError, match=by_another):
        published(tmp_path, signed, signature_key=str(other))
    for changed in (flipped(signed, tmp_path / "changed.sif"), damaged(signed, tmp_path / "cut.sif", size=size // 2)):
        with pytest.raises(ManifestError, match=r"is damaged.* remove it \(rm .*get or build it anew") as raised:
            published(tmp_path, changed, signature_key=str(public))
        assert ("never sign it" in raised.value.message) == (changed.name == "changed.sif")
        assert "apptainer sign" not in raised.value.message


def test_an_image_for_several_ranks_needs_an_mpi_of_the_site_s_family(
    python_image: Path, mpi_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=r"lacks pyzmq, .*mpi4py; gather them once.* container runtime .* --ranks"):
        published(tmp_path, python_image, ranks=2)
    images.packages(tmp_path / "shared", image_dir)
    with pytest.raises(ManifestError, match="lacks pyzmq, msgspec, numpy, mpi4py"):
        published(tmp_path, python_image, ranks=2)
    images.packages(tmp_path / "shared", image_dir, ranks=True)
    with pytest.raises(ManifestError, match=r'ranks.size is 2; there is no MPI in it.*build.base = "mpich"'):
        published(tmp_path, python_image, ranks=2)
    with pytest.raises(ManifestError, match=r"its MPI is MPICH \(.*\), and this site starts ranks by Open MPI"):
        published(tmp_path, mpi_image, ranks=2, mpi={"family": "openmpi"})
    with pytest.raises(ConfigError, match=r"mpi\.binds: there is no /nowhere on this host"):
        published(tmp_path, mpi_image, ranks=2, mpi={"binds": ("/nowhere",)})
    found = published(tmp_path, mpi_image, ranks=2, mpi={"family": "mpich"}).published
    assert found is not None
    assert "-ranks-" in Path(found.packages).name
    assert published(tmp_path, mpi_image, mpi={"family": "openmpi"}).published is not None, "one rank needs no MPI"


def test_an_image_with_packages_that_are_too_old_is_told(python_image: Path, tmp_path: Path) -> None:
    run_pip(gathering(tmp_path / "old", ["pyzmq==26.4.0"], *images.THIS))
    copies = [(f"{tmp_path}/old/*", f"{images.purelib(python_image)}/")]
    image = images.layered(tmp_path / "old.sif", python_image, copies)
    with pytest.raises(ManifestError, match=f"image {image}: its pyzmq is 26.4.0, and hpcserve here needs 27 or later"):
        published(tmp_path, image)


def test_an_image_that_changed_after_publication_is_refused(client: Client, python_image: Path, tmp_path: Path) -> None:
    image = tmp_path / "mine.sif"
    shutil.copy(python_image, image)
    place = servable(tmp_path / "changing", image, name="changing")
    first = client.call("publish", admin.Publish(path=str(place)), admin.Published)
    with image.open("ab") as file:
        file.write(b"more")
    client.call("deploy", admin.Deploy(servable="changing"), admin.Deployed)
    told = f"image {image} changed after the servable was published with the one of sha256"
    until(lambda: told in str(deployment(client, "changing").error), "it is refused")
    # The files are the same, the image is not: it is another version.
    second = client.call("publish", admin.Publish(path=str(place)), admin.Published)
    assert second.new
    assert second.version != first.version
    client.call("deploy", admin.Deploy(servable="changing"), admin.Deployed)
    answer = client.infer("changing.double", np.ones(1))
    assert (answer["y"].tolist(), answer.version) == ([2.0], second.version)
    view = deployment(client, "changing")
    assert (view.version, view.image) == (second.version, str(image))
    assert view.image_sha256 == hashlib.sha256(image.read_bytes()).hexdigest()


def test_what_is_bound_and_missing_on_the_node_is_told(
    equipped: Daemon, client: Client, python_image: Path, tmp_path: Path
) -> None:
    place = servable(tmp_path / "unbound", python_image, name="unbound")
    client.call("publish", admin.Publish(path=str(place)), admin.Published)
    (gathered,) = (equipped.shared / "runtimes").iterdir()
    away = gathered.rename(tmp_path / "away")
    try:
        client.call("deploy", admin.Deploy(servable="unbound"), admin.Deployed)
        until(lambda: f"{gathered}: not there any more" in deployment(client, "unbound").error, "it is told")
        assert "hpcserve container runtime" in deployment(client, "unbound").error
    finally:
        away.rename(gathered)
    client.call("undeploy", admin.Undeploy(endpoint="unbound"), admin.Undeployed)


def test_a_servable_that_does_not_import_in_its_image_is_told_with_its_traceback(
    client: Client, python_image: Path, tmp_path: Path
) -> None:
    place = servable(tmp_path / "wrong", python_image, name="wrong")
    (place / "model.py").write_text("import torch\n")
    with pytest.raises(ManifestError, match="No module named 'torch'"):
        client.call("publish", admin.Publish(path=str(place)), admin.Published)


def cli(daemon: Daemon, *argv: str) -> subprocess.CompletedProcess[str]:
    """Runs ``hpcserve`` to its end."""
    command = [sys.executable, "-m", "hpcserve.cli.main", *argv]
    return subprocess.run(command, env=os.environ | daemon.variables, capture_output=True, text=True, check=False)


def test_packages_are_gathered_by_the_command_line(equipped: Daemon, python_image: Path, tmp_path: Path) -> None:
    (gathered,) = (equipped.shared / "runtimes").iterdir()
    done = cli(equipped, "container", "runtime", str(python_image))
    assert (done.returncode, done.stdout.strip()) == (0, f"there already: {gathered}")
    done = cli(equipped, "container", "runtime", str(tmp_path / "nowhere.sif"))
    assert done.returncode != 0
    assert f"image {tmp_path}/nowhere.sif" in " ".join(done.stderr.split())


@pytest.mark.parametrize("left", [(), ("zmq", "numpy")])
def test_packages_that_are_not_whole_are_found_by_the_check(
    equipped: Daemon, python_image: Path, tmp_path: Path, left: tuple[str, ...]
) -> None:
    """The directory is there; of what should be in it nothing is, or something without its inside."""
    (gathered,) = (equipped.shared / "runtimes").iterdir()
    away = gathered.rename(tmp_path / "away")
    gathered.mkdir()
    for name in left:
        (gathered / name).mkdir()
    try:
        done = cli(equipped, "container", "check", str(python_image))
    finally:
        shutil.rmtree(gathered)
        away.rename(gathered)
    (failed,) = (line for line in done.stdout.splitlines() if line.startswith("failed"))
    assert done.returncode == 1
    assert failed.startswith(f"failed   runtime: image {python_image}")
    assert f"if {gathered} is not whole, remove it, and: hpcserve container runtime {python_image}" in failed


def test_packages_that_are_not_whole_are_gathered_anew(tmp_path: Path) -> None:
    packages, wanted = tmp_path / "packages", ["msgspec"]
    assert gather_into(packages, wanted, *images.THIS, compiled=lambda _: None)
    assert not gather_into(packages, wanted, *images.THIS, compiled=lambda _: None)
    assert not is_gathered(packages, ["msgspec>=0.18", "numpy"])
    module = packages / "msgspec" / "__init__.py"
    for content in (b"", None):
        if content is None:
            shutil.rmtree(packages)
            packages.mkdir()
        else:
            module.write_bytes(content)
        assert gather_into(packages, wanted, *images.THIS, compiled=lambda _: None)
        assert module.stat().st_size
    assert [each.name for each in tmp_path.iterdir()] == ["packages"]


def test_a_runtime_of_another_version_is_found_by_the_check() -> None:
    inside = Runtime(software=__version__, wire=WIRE_VERSIONS, packages={})
    assert runtime_finding(inside).outcome == "ok"
    for other in (replace(inside, software="0.0.1"), replace(inside, wire=(*WIRE_VERSIONS, 99))):
        assert runtime_finding(other).outcome == "failed"


def test_an_image_is_checked_by_the_command_line(equipped: Daemon, python_image: Path, image_dir: Path) -> None:
    done = cli(equipped, "container", "check", str(python_image))
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stdout
    version = ".".join(map(str, sys.version_info[:3]))
    assert found["ok       Python"].startswith(f"{version} for ")
    assert found["ok       packages"].startswith(f"pyzmq {zmq.__version__}, msgspec ")
    assert "; pyzmq, msgspec, numpy of " in found["ok       packages"]
    assert found["ok       runtime"] == f"hpcserve {__version__}, wire protocol {WIRE_VERSIONS[0]}, runs in it"
    assert found["skipped  MPI"] == found["skipped  CUDA"] == found["skipped  ROCm"] == "none in the image"
    done = cli(equipped, "container", "check", str(images.cached("bare", image_dir, python=False)))
    assert done.returncode == 1
    assert "has no python3; name its interpreter" in done.stdout.splitlines()[-1]
