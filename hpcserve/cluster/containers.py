"""The command that runs a program in a container, for each container runtime. Pure: starts nothing.

Profile ``strict`` (design §7) is for a program of one rank: it sees the image, what is bound into it by name, the
variables that are named, and nothing else of its node; its processes end with the container. What it may use of the
network is the node's.

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
from typing import Literal

from hpcserve.errors import ConfigError
from hpcserve.wire.launch import ContainerRules

Profile = Literal["strict"]

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
NOT_SIGNED = 65
"""The exit code where an image is not signed by the site's key."""
WORKDIR = "/tmp"  # noqa: S108 (the container's own, which is private)

# Apptainer's options can all be given as variables too: those of a user's shell are not the site's.
_OF_RUNTIME = ("APPTAINER", "SINGULARITY")
_KEPT = frozenset({"APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_CONFIGDIR", "APPTAINER_DROP_CAPS"})

# Source: what Apptainer 1.4 prints, and its exit code where it cannot run an image; a program may end with it too.
_REFUSALS = {255: re.compile(r"(?m)^FATAL:\s*(.+)$"), NOT_SIGNED: re.compile(r"(?m)^(image .*: not signed by .*)$")}
_VERIFY = """runtime=$1 key=$2 image=$3; shift 3
"$runtime" verify --key "$key" "$image" </dev/null >&2 || {
    echo "image $image: not signed by the key $key, as containers.signature_key of the site wants it" >&2
    exit 65
}
"""
# Source: apptainer-exec(1), of 1.4: with --cleanenv, of all variables those named APPTAINERENV_* come in.
_FORWARD = """names=$1; shift
for name in $names; do
    if eval "[ -n \\"\\${$name+set}\\" ]"; then eval "export APPTAINERENV_$name=\\"\\$$name\\""; fi
done
exec "$@"
"""
# Another pilot's agent may have removed the copy since.
_STAGED = """copy=$1 image=$2; shift 2
if [ ! -r "$copy" ]; then
    echo "image $image is read from there: its copy $copy is gone" >&2
    for word; do shift; [ "$word" != "$copy" ] || word=$image; set -- "$@" "$word"; done
fi
"""
_PROFILES: Mapping[Profile, tuple[str, ...]] = MappingProxyType(
    {"strict": ("--containall", "--cleanenv", "--no-home", "--no-eval")}
)
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
    rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], profile: Profile = "strict"
) -> Contained:
    """The command that runs a program in a container.

    Args:
        rules: The site's.
        inside: The program.
        inherited: The environment of who starts it.
        profile: How much of the node it sees.

    Raises:
        ConfigError: The site has no container runtime, or none that we know how to call.
    """
    if rules.runtime not in _RUNTIMES:
        raise ConfigError(
            f"containers.runtime: {rules.runtime!r} runs no containers here; expected one of {', '.join(_RUNTIMES)}: "
            "correct the site file"
        )
    return _RUNTIMES[rules.runtime](rules, inside, inherited, profile)


def refused(exit_code: int, output: str) -> str:
    """Why a container did not start, in the runtime's own words; empty where it did, or nothing says why.

    Args:
        exit_code: Of the command.
        output: The end of what it printed.
    """
    told = _REFUSALS.get(exit_code)
    lines = told.findall(output) if told else []
    return f"the container did not start: {lines[-1].strip()}" if lines else ""


def site_binds(rules: ContainerRules) -> tuple[Bind, ...]:
    """What a site binds into all containers: ``SOURCE[:TARGET[:ro|rw]]``, read-only unless it says otherwise."""
    split = (text.split(":") for text in rules.binds)
    return tuple(Bind(source, (rest or [source])[0], writable=rest[1:] == ["rw"]) for source, *rest in split)


def _apptainer(rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], profile: Profile) -> Contained:
    command = rules.command or "apptainer"
    argv = [command, "--silent", "exec", *_PROFILES[profile], *_gpu(rules), "--pwd", WORKDIR]
    for bind in (*site_binds(rules), *inside.binds):
        argv += ["--mount", _mount(bind)]
    names = " ".join((*OF_DEVICES, *rules.environment))
    image = inside.staged or inside.image
    script, words = _FORWARD, [names]
    if rules.signature_key:
        script, words = _VERIFY + script, [command, rules.signature_key, image, *words]
    if inside.staged:
        script, words = _STAGED + script, [inside.staged, inside.image, *words]
    kept = {name: value for name, value in inherited.items() if name in _KEPT or not name.startswith(_OF_RUNTIME)}
    given = {f"APPTAINERENV_{name}": value for name, value in inside.environment.items()}
    return Contained(("sh", "-c", script, "sh", *words, *argv, image, *inside.argv), {**kept, **given})


def _podman(rules: ContainerRules, inside: Inside, inherited: Mapping[str, str], profile: Profile) -> Contained:
    """Source: podman-run(1), and https://docs.nersc.gov/development/containers/podman-hpc/overview/ for ``--gpu``."""
    assert profile == "strict", "the only one that there is"
    if rules.signature_key:
        raise ConfigError("containers.signature_key: podman-hpc verifies no such signature; remove it")
    argv = [rules.command or "podman-hpc", "run", "--rm", "--interactive", "--network=host", "--read-only"]
    argv += [f"--tmpfs={WORKDIR}", f"--workdir={WORKDIR}", "--entrypoint=", *_gpu(rules)]
    for bind in (*site_binds(rules), *inside.binds):
        argv += ["--mount", _mount(bind)]
    # Without a value, that of the node is taken, where there is one.
    for name in (*OF_DEVICES, *rules.environment, *inside.environment):
        argv += ["--env", name]
    return Contained((*argv, inside.image, *inside.argv), {**inherited, **inside.environment})


_RUNTIMES: Mapping[str, Callable[[ContainerRules, Inside, Mapping[str, str], Profile], Contained]] = MappingProxyType(
    {"apptainer": _apptainer, "podman-hpc": _podman}
)


def _gpu(rules: ContainerRules) -> tuple[str, ...]:
    return _GPU.get((rules.runtime, rules.gpu), ())


def _mount(bind: Bind) -> str:
    """The argument of ``--mount``, which both runtimes read as a line of CSV: a path may hold commas and colons."""
    line = io.StringIO()
    fields = ["type=bind", f"source={bind.source}", f"destination={bind.target}", *([] if bind.writable else ["ro"])]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
