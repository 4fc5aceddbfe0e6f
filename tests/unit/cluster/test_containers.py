"""The commands that run programs in containers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hpcserve.cluster.containers import OF_DEVICES, Bind, Inside, contained, refused, site_binds
from hpcserve.errors import ConfigError
from hpcserve.wire.launch import GROUP, OUTSIDE, ContainerRules, MpiRules

INSIDE = Inside(
    image="/images/a.sif",
    argv=("python3", "-m", "x"),
    binds=(Bind("/versions/1", "/opt/hpcserve/servable"),),
    environment={"PYTHONUNBUFFERED": "1"},
)
DEVICES = " ".join(OF_DEVICES)


def test_apptainer_shows_what_is_named_and_nothing_else() -> None:
    rules = ContainerRules(runtime="apptainer", binds=("/data", "/scratch:/work:rw"), environment=("LICENSE",))
    made = contained(rules, INSIDE, {"PATH": "/bin", "LICENSE": "7"})
    shell, option, _script, name, names, *argv = made.argv
    assert (shell, option, name, names) == ("sh", "-c", "sh", f"{DEVICES} LICENSE")
    assert argv == [
        *("apptainer", "--silent", "exec", "--containall", "--cleanenv", "--no-home", "--no-eval", "--pwd", "/tmp"),
        *("--mount", "type=bind,source=/data,destination=/data,ro"),
        *("--mount", "type=bind,source=/scratch,destination=/work"),
        *("--mount", "type=bind,source=/versions/1,destination=/opt/hpcserve/servable,ro"),
        *("/images/a.sif", "python3", "-m", "x"),
    ]
    assert made.environment == {"PATH": "/bin", "LICENSE": "7", "APPTAINERENV_PYTHONUNBUFFERED": "1"}


def test_apptainer_is_not_bent_by_the_user_s_variables() -> None:
    inherited = {
        "APPTAINER_BIND": "/home",
        "APPTAINERENV_SECRET": "1",
        "SINGULARITY_BINDPATH": "/",
        "APPTAINER_TMPDIR": "/local",
        "HOME": "/home/me",
    }
    made = contained(ContainerRules(runtime="apptainer"), Inside(image="/a.sif", argv=("true",)), inherited)
    assert made.environment == {"APPTAINER_TMPDIR": "/local", "HOME": "/home/me"}


@pytest.mark.parametrize(
    ("runtime", "gpu", "options"),
    [
        ("apptainer", "nv", ("--nv",)),
        ("apptainer", "rocm", ("--rocm",)),
        ("podman-hpc", "nv", ("--gpu",)),
        ("podman-hpc", "rocm", ("--device=/dev/kfd", "--device=/dev/dri")),
    ],
)
def test_gpus_are_those_of_the_site(runtime: str, gpu: str, options: tuple[str, ...]) -> None:
    with_gpu = contained(ContainerRules(runtime=runtime, gpu=gpu), INSIDE, {}).argv
    without = contained(ContainerRules(runtime=runtime), INSIDE, {}).argv
    assert [each for each in with_gpu if each not in without] == list(options)


@pytest.mark.parametrize(
    ("runtime", "more", "fewer"),
    [
        ("apptainer", ["--contain", "--pid", "type=bind,source=/dev,destination=/dev"], ["--containall"]),
        ("podman-hpc", ["--ipc=host"], []),
    ],
)
def test_memory_may_be_shared_with_the_node(runtime: str, more: list[str], fewer: list[str]) -> None:
    shared = contained(ContainerRules(runtime=runtime, host_ipc=True), INSIDE, {}).argv
    apart = contained(ContainerRules(runtime=runtime), INSIDE, {}).argv
    assert [each for each in shared if each not in apart] == more
    assert [each for each in apart if each not in shared] == fewer


def test_a_runtime_of_another_name_and_a_signature() -> None:
    rules = ContainerRules(runtime="apptainer", command="/opt/bin/apptainer", signature_key="/keys/site.pem")
    argv = contained(rules, INSIDE, {}).argv
    assert argv[3:8] == ("sh", "/opt/bin/apptainer", "/keys/site.pem", "/images/a.sif", DEVICES)
    assert argv[8] == "/opt/bin/apptainer"


@pytest.mark.parametrize("mpi", [None, MpiRules(environment=("PMI_*",))], ids=["strict", "mpi"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_copy_on_the_node_is_run_and_where_it_is_gone_the_image_itself(
    tmp_path: Path, mpi: MpiRules | None, *, signed: bool
) -> None:
    """The real shell runs it; in the runtime's place stands a program that tells its arguments."""
    runtime = tmp_path / "runtime"
    runtime.write_text('#!/bin/sh\necho "$@" >>"$0.told"\n')
    runtime.chmod(0o755)
    copy = tmp_path / "a copy.sif"
    rules = ContainerRules(runtime="apptainer", command=str(runtime), signature_key="/k.pem" if signed else "")
    inside = Inside(image="/images/a b.sif", argv=("echo", "two words", str(copy) + "x"), staged=str(copy))
    made = contained(rules, inside, dict(os.environ), mpi)
    for run in (copy, "/images/a b.sif"):
        if run == copy:
            copy.touch()
        else:
            copy.unlink()
        done = subprocess.run(made.argv, env=made.environment, capture_output=True, text=True, check=True)
        told = Path(f"{runtime}.told")
        lines = told.read_text().splitlines()
        told.unlink()
        assert [line for line in lines if " verify " in line] == [f"--silent verify --key /k.pem {run}"] * signed
        assert lines[-1].endswith(f" {run} echo two words {copy}x")
        assert (f"no copy of it is at {copy}" in done.stderr) == (run != copy)


def test_podman_hpc_gets_the_same_in_its_own_words() -> None:
    rules = ContainerRules(runtime="podman-hpc", binds=("/data",), environment=("LICENSE",))
    made = contained(rules, INSIDE, {"PATH": "/bin"})
    names = [word for name in (*OF_DEVICES, "LICENSE", "PYTHONUNBUFFERED") for word in ("--env", name)]
    assert made.argv == (
        *("podman-hpc", "run", "--rm", "--interactive", "--network=host", "--read-only"),
        *("--tmpfs=/tmp", "--workdir=/tmp", "--entrypoint="),
        *("--mount", "type=bind,source=/data,destination=/data,ro"),
        *("--mount", "type=bind,source=/versions/1,destination=/opt/hpcserve/servable,ro"),
        *names,
        *("docker-archive:/images/a.sif", "python3", "-m", "x"),
    )
    assert made.environment == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}
    with pytest.raises(ConfigError, match=r"containers\.signature_key: podman-hpc verifies"):
        contained(ContainerRules(runtime="podman-hpc", signature_key="/k"), INSIDE, {})


@pytest.mark.parametrize("runtime", ["none", "docker"])
def test_a_site_without_a_runtime_says_so(runtime: str) -> None:
    with pytest.raises(ConfigError, match=f"containers.runtime: '{runtime}' runs no containers here"):
        contained(ContainerRules(runtime=runtime), INSIDE, {})


def test_binds_of_a_site() -> None:
    rules = ContainerRules(binds=("/a", "/b:/c", "/d:/e:ro", "/f:/g:rw"))
    assert site_binds(rules) == (
        Bind("/a", "/a"),
        Bind("/b", "/c"),
        Bind("/d", "/e"),
        Bind("/f", "/g", writable=True),
    )


@pytest.mark.parametrize(
    ("exit_code", "output", "told"),
    [
        (
            255,
            "noise\nFATAL:   container creation failed: mount source /x doesn't exist\n",
            "container creation failed",
        ),
        (
            65,
            "image /a.sif: not signed by the key /k, as the site wants it\n",
            "image /a.sif: not signed by the key /k",
        ),
        (255, "the servable's own last words\n", ""),
        (1, "FATAL: of a program\n", ""),
    ],
)
def test_why_a_container_did_not_start(exit_code: int, output: str, told: str) -> None:
    assert refused(exit_code, output).startswith(f"the container did not start: {told}" if told else "")
    assert bool(refused(exit_code, output)) == bool(told)


MPI = MpiRules(binds=("/opt/cray", "/var/spool/slurmd:/var/spool/slurmd:rw"), environment=("PMI_*", "MPI*", "FI_ONE"))


def test_ranks_see_where_they_meet_and_who_they_are() -> None:
    made = contained(ContainerRules(runtime="apptainer", environment=("LICENSE",)), INSIDE, {}, MPI)
    *_, names, patterns = made.argv[: made.argv.index("apptainer")]
    assert (names, patterns) == (f"{DEVICES} LICENSE", "PMI_* MPI* FI_ONE")
    assert made.argv[made.argv.index("apptainer") :] == (
        *("apptainer", "--silent", "exec", "--cleanenv", "--no-home", "--no-mount=cwd,tmp", "--scratch=/tmp"),
        *("--no-eval", "--pwd", "/tmp"),
        *("--mount", "type=bind,source=/dev/shm,destination=/dev/shm"),
        *("--mount", "type=bind,source=/opt/cray,destination=/opt/cray,ro"),
        *("--mount", "type=bind,source=/var/spool/slurmd,destination=/var/spool/slurmd"),
        *("--mount", "type=bind,source=/versions/1,destination=/opt/hpcserve/servable,ro"),
        *("/images/a.sif", "python3", "-m", "x"),
    )


@pytest.mark.parametrize("mpi", [None, MPI])
def test_the_variables_of_the_node_come_in_by_name_or_pattern(tmp_path: Path, mpi: MpiRules | None) -> None:
    """The script is run by the node's own shell, with a stand-in for the runtime that tells what it is given."""
    runtime = tmp_path / "tells"
    runtime.write_text("#!/bin/sh\nenv -0\n")
    runtime.chmod(0o755)
    (tmp_path / "PMI_FILE").touch()  # a pattern is none of files
    made = contained(ContainerRules(runtime="apptainer", command=str(runtime), environment=("A",)), INSIDE, {}, mpi)
    node = {
        "PATH": os.environ["PATH"],
        "A": "with 'quotes', $HOME and\nMPI_NOT=a second line",
        "PMI_RANK": "3",
        "MPIR": "",
        "FI_ONE": "1",
        "FI_TWO": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
    }
    said = subprocess.run(made.argv, env=node | made.environment, cwd=tmp_path, capture_output=True, check=True).stdout
    pairs = dict(each.split("=", 1) for each in said.decode().split("\0") if each)
    inside = {name[13:]: value for name, value in pairs.items() if name.startswith("APPTAINERENV_")}
    always = {"A": node["A"], "CUDA_VISIBLE_DEVICES": "0,1", "PYTHONUNBUFFERED": "1"}
    of_ranks = {"PMI_RANK": "3", "MPIR": "", "FI_ONE": "1", OUTSIDE: os.readlink("/proc/self/ns/mnt")}
    assert inside == always | ({} if mpi is None else of_ranks)


@pytest.mark.parametrize(
    ("named", "bound"),
    [("{}/ompi.7", True), ("", False), ("/tmp", False), ("/tmp/", False), ("/", False), ("{}/gone", False)],
)
def test_ranks_see_what_pmix_shares_with_them_and_no_more(tmp_path: Path, named: str, *, bound: bool) -> None:
    """The script is run by the node's own shell, with a stand-in for the runtime that tells what it is given."""
    runtime = tmp_path / "tells"
    runtime.write_text('#!/bin/sh\necho "${APPTAINER_BIND-none}"\n')
    runtime.chmod(0o755)
    (tmp_path / "ompi.7").mkdir()
    directory = named.format(tmp_path)
    made = contained(ContainerRules(runtime="apptainer", command=str(runtime)), INSIDE, {"APPTAINER_BIND": "/"}, MPI)
    node = {"PATH": os.environ["PATH"], "PMIX_SERVER_TMPDIR": directory}
    said = subprocess.run(made.argv, env=node | made.environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == (directory if bound else "none")


def test_podman_hpc_s_ranks_share_the_node_too() -> None:
    argv = contained(ContainerRules(runtime="podman-hpc"), INSIDE, {}, MPI).argv
    assert argv[argv.index(GROUP) - 1] == "--env", "by which what a rank leaves behind is found"
    assert {"--pid=host", "--ipc=host", "--tmpfs=/tmp", "PMI_*", "MPI*"} <= set(argv)
    assert "type=bind,source=/tmp,destination=/tmp" not in argv
