"""The command that runs a program in a container, for each container runtime. Pure: starts nothing.

Profile ``strict`` (design §7) is for a program of one rank: it sees the image, what is bound into it by name, the
variables that are named, and nothing else of its node; its processes end with the container. What it may use of the
network is the node's.

Profile ``mpi`` is for one of several ranks, each of which a launcher starts in a container of its own. They are to
find one another: they see the node's processes and its shared memory, in which MPI libraries meet, the directory that
PMIx has for them, and the variables by which the launcher tells each which one it is. Without these every rank would
take itself for the only one. Their ``/tmp`` is their own.
Their processes do not end with their container, so each rank is told what is outside of it, and sees to that itself
(:mod:`hpcserve.replica.sweep`).

The command is a short, constant script of sh(1) that becomes the runtime by ``exec``: which GPUs a program may use, and
whether the image is signed, can only be told on the node where it runs, to which a launcher may have brought it.
Nothing of a variable's value ever stands in it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hpcserve.cluster.capabilities import SYS_RESOURCE, VARIABLE
from hpcserve.errors import ConfigError
from hpcserve.wire.launch import GROUP, OUTSIDE, ContainerRules, MpiRules

OF_DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
    "OMP_NUM_THREADS",
)
"""The variables of its node that a program in a container sees without the site's naming them."""
NOT_STARTED = 255
"""Apptainer's exit code where it cannot run an image."""
NOT_SIGNED = 65
"""The exit code where an image is not signed by the site's key."""
NOT_FOUND = 127
"""The exit code where the command that runs containers is not there."""
WORKDIR = "/tmp"  # noqa: S108 (the container's own, which is private)

SHARED_MEMORY = "/dev/shm"  # noqa: S108 (the node's, in which its ranks meet)

# Apptainer's options can all be given as variables too: those of a user's shell are not the site's.
_OF_RUNTIME = ("APPTAINER", "SINGULARITY")
_KEPT = frozenset({"APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_CONFIGDIR", "APPTAINER_DROP_CAPS"})

# Source: what Apptainer 1.4 prints, and its exit code where it cannot run an image; a program may end with it too.
_REFUSALS = {
    NOT_STARTED: re.compile(r"(?m)^FATAL: {2,}(.+)$"),
    NOT_SIGNED: re.compile(r"(?m)^(image .*: not signed by .*)$"),
    NOT_FOUND: re.compile(r"(?m)^(no command .* of the site file)$"),
}
_VERIFY = """runtime=$1 key=$2 image=$3; shift 3
said=$("$runtime" --silent verify --key "$key" "$image" </dev/null 2>&1) || {
    echo "$said" >&2
    echo "image $image: not signed by the key $key, as containers.signature_key of the site wants it" >&2
    exit 65
}
"""
# As hpcserve.cluster.capabilities says: the seventh digit of CapPrm from the right has its lowest bit for this one.
_CAPABILITIES = f"""if [ -z "${{{VARIABLE}-}}" ] && [ "$(id -u)" = 0 ] && [ -r /proc/self/status ]; then
    while read -r word value; do
        case $word$value in CapPrm:*[02468ace]??????) export {VARIABLE}={SYS_RESOURCE} ;; esac
    done </proc/self/status
fi
"""
_NAMES = """names=$1; shift
"""
# A pattern is to match names of variables, not of files. A line of a value that looks like one does no harm.
_MATCHING = """patterns=$1; shift
set -f
for name in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do
    for pattern in $patterns; do
        case $name in $pattern) names="$names $name" ;; esac
    done
done
"""
_TELL_OUTSIDE = f"""export APPTAINERENV_{OUTSIDE}="$(readlink /proc/self/ns/mnt)"
"""
# Open MPI's mpiexec and Slurm's pmix keep there what they share with ranks (Open MPI 5: /tmp/ompi.PID). A launcher
# that named all of /tmp would show what others have there.
_MEET = f"""case ${{PMIX_SERVER_TMPDIR-}} in
    /|{WORKDIR}|{WORKDIR}/|*[,:]*) ;;
    /*) [ ! -d "$PMIX_SERVER_TMPDIR" ] || export APPTAINER_BIND="$PMIX_SERVER_TMPDIR" ;;
esac
"""
# Source: apptainer-exec(1), of 1.4: with --cleanenv, of all variables those named APPTAINERENV_* come in.
_FORWARD = """for name in $names; do
    if eval "[ -n \\"\\${$name+set}\\" ]"; then eval "export APPTAINERENV_$name=\\"\\$$name\\""; fi
done
command -v "$1" >/dev/null || {
    echo "no command $1 on $(uname -n): load its module in pilots.setup, or correct" \
        "containers.command of the site file" >&2
    exit 127
}
exec "$@"
"""
_STRICT = ("--containall", "--cleanenv", "--no-home", "--no-eval")
_STRICT_BUT_IPC = ("--contain", "--pid", "--cleanenv", "--no-home", "--no-eval")
_OF_MPI = ("--cleanenv", "--no-home", "--no-mount=cwd,tmp", f"--scratch={WORKDIR}", "--no-eval")
# Another pilot's agent may have removed the copy since, and of a replica's nodes one may never have had it.
_STAGED = """copy=$1 image=$2; shift 2
if [ ! -r "$copy" ]; then
    echo "image $image is read from there: no copy of it is at $copy" >&2
    for word; do shift; [ "$word" != "$copy" ] || word=$image; set -- "$@" "$word"; done
fi
"""
# Source: podman-run(1), of 4.9: an image is named by a transport and a path. This is what `podman save` writes.
_ARCHIVE = "docker-archive:"
_GPU = {
    ("apptainer", "nv"): ("--nv",),
    ("apptainer", "rocm"): ("--rocm",),
    ("podman-hpc", "nv"): ("--gpu",),
    ("podman-hpc", "rocm"): ("--device=/dev/kfd", "--device=/dev/dri"),
}


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the node that is seen in the container."""

    source: str
    target: str
    writable: bool = False


# A bind to /dev/shm alone does nothing beside --contain (seen in Apptainer 1.4).
_SHARED = (Bind("/dev", "/dev", writable=True),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What is to run in a container.

    Attributes:
        image: The path of the image.
        staged: The path of a copy on the node, from which it is run if it is still there; empty: there is none.
        argv: The program, as it is called inside.
        binds: What it sees beside what the site binds into all containers.
        environment: The variables that it gets beside those of :data:`OF_DEVICES` and the site's.
    """

    image: str
    argv: tuple[str, ...]
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    staged: str = ""


@dataclass(frozen=True, slots=True)
class Contained:
    """The command that runs it, and all of its environment."""

    argv: tuple[str, ...]
    environment: dict[str, str]


def contained(
    rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], mpi: MpiRules | None = None
) -> Contained:
    """The command that runs a program in a container.

    Args:
        rules: The site's.
        inside: The program.
        inherited: The environment of who starts it.
        mpi: How the site starts MPI ranks, if the program is one of several: profile ``mpi`` then, else ``strict``.

    Raises:
        ConfigError: The site has no container runtime, or none that we know how to call.
    """
    if rules.runtime not in _RUNTIMES:
        raise ConfigError(
            f"containers.runtime: {rules.runtime!r} runs no containers here; expected one of {', '.join(_RUNTIMES)}: "
            "correct the site file"
        )
    return _RUNTIMES[rules.runtime](rules, inside, inherited, mpi)


def refused(exit_code: int, output: str) -> str:
    """Why a container did not start, in the runtime's own words; empty where it did, or nothing says why.

    Args:
        exit_code: Of the command.
        output: The end of what it printed.
    """
    told = _REFUSALS.get(exit_code)
    lines = told.findall(output) if told else []
    return f"the container did not start: {lines[-1].strip()}" if lines else ""


def site_binds(rules: ContainerRules | MpiRules) -> tuple[Bind, ...]:
    """What a site binds into its containers: ``SOURCE[:TARGET[:ro|rw]]``, read-only unless it says otherwise."""
    split = (text.split(":") for text in rules.binds)
    return tuple(Bind(source, (rest or [source])[0], writable=rest[1:] == ["rw"]) for source, *rest in split)


def _binds(rules: ContainerRules, inside: Inside, mpi: MpiRules | None, *shared: str) -> tuple[Bind, ...]:
    """``shared``: what ranks have in common with all programs of their node."""
    of_mpi = () if mpi is None else (*(Bind(path, path, writable=True) for path in shared), *site_binds(mpi))
    return (*of_mpi, *site_binds(rules), *inside.binds)


def _isolated(rules: ContainerRules, mpi: MpiRules | None) -> tuple[str, ...]:
    if mpi is not None:
        return _OF_MPI
    return _STRICT_BUT_IPC if rules.host_ipc else _STRICT


def _apptainer(rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], mpi: MpiRules | None) -> Contained:
    command = rules.command or "apptainer"
    argv = [command, "--silent", "exec", *_isolated(rules, mpi), *_gpu(rules), "--pwd", WORKDIR]
    shared = _SHARED if rules.host_ipc and mpi is None else ()
    for bind in (*shared, *_binds(rules, inside, mpi, SHARED_MEMORY)):
        argv += ["--mount", _mount(bind)]
    image = inside.staged or inside.image
    script, words = (_STAGED, [inside.staged, inside.image]) if inside.staged else ("", [])
    if rules.signature_key:
        script += _VERIFY
        words += [command, rules.signature_key, image]
    words.append(" ".join((*OF_DEVICES, *rules.environment)))
    if mpi is None:
        script += _CAPABILITIES + _NAMES + _FORWARD
    else:
        script += _CAPABILITIES + _TELL_OUTSIDE + _MEET + _NAMES + _MATCHING + _FORWARD
        words.append(" ".join(mpi.environment))
    kept = {name: value for name, value in inherited.items() if name in _KEPT or not name.startswith(_OF_RUNTIME)}
    given = {f"APPTAINERENV_{name}": value for name, value in inside.environment.items()}
    return Contained(("sh", "-c", script, "sh", *words, *argv, image, *inside.argv), {**kept, **given})


def _podman(rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], mpi: MpiRules | None) -> Contained:
    """Source: podman-run(1), and https://docs.nersc.gov/development/containers/podman-hpc/overview/ for ``--gpu``.

    Not run for real yet: a test has a stand-in that reads these options, and runs the image by Apptainer.
    """
    if rules.signature_key:
        raise ConfigError("containers.signature_key: podman-hpc verifies no such signature; remove it")
    argv = [rules.command or "podman-hpc", "run", "--rm", "--interactive", "--network=host", "--read-only"]
    argv += ["--pid=host"] if mpi is not None else []
    argv += [f"--tmpfs={WORKDIR}", f"--workdir={WORKDIR}", "--entrypoint=", *_gpu(rules)]
    if mpi is not None or rules.host_ipc:
        argv.append("--ipc=host")  # with it comes shared memory
    for bind in _binds(rules, inside, mpi):
        argv += ["--mount", _mount(bind)]
    # Without a value, that of the node is taken, where there is one; of a name with a * at its end, all that match.
    for name in (*OF_DEVICES, *rules.environment, *((GROUP, *mpi.environment) if mpi else ()), *inside.environment):
        argv += ["--env", name]
    return Contained((*argv, f"{_ARCHIVE}{inside.image}", *inside.argv), {**inherited, **inside.environment})


_Made = Callable[[ContainerRules, Inside, Mapping[str, str], MpiRules | None], Contained]
_RUNTIMES: Mapping[str, _Made] = MappingProxyType({"apptainer": _apptainer, "podman-hpc": _podman})


RUNTIMES = frozenset(_RUNTIMES)
"""Those that we know how to call."""


def _gpu(rules: ContainerRules) -> tuple[str, ...]:
    return _GPU.get((rules.runtime, rules.gpu), ())


def _mount(bind: Bind) -> str:
    """The argument of ``--mount``, which both runtimes read as a line of CSV: a path may hold commas and colons."""
    line = io.StringIO()
    fields = ["type=bind", f"source={bind.source}", f"destination={bind.target}", *([] if bind.writable else ["ro"])]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
