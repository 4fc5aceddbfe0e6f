"""How this site's containers serve those who publish: the registry knows servables, and the cluster knows images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hpcserve import __version__
from hpcserve.cluster import guest
from hpcserve.cluster.building import Plan
from hpcserve.cluster.containers import contained
from hpcserve.cluster.image_check import libraries
from hpcserve.cluster.images import Images, Interpreter
from hpcserve.cluster.packages import OF_MODULES, runtime_dir
from hpcserve.cluster.site_findings import Finding
from hpcserve.config import Containers, Mpi, Site
from hpcserve.errors import ManifestError
from hpcserve.servable.manifest import Environment, Image
from hpcserve.wire.launch import ContainerRules, MpiRules
from hpcserve.wire.messages import WIRE_VERSIONS


def rules_of(containers: Containers) -> ContainerRules:
    """What agents are told."""
    return ContainerRules(**msgspec.structs.asdict(containers))


def mpi_rules_of(mpi: Mpi) -> MpiRules:
    """What agents are told of MPI."""
    return MpiRules(**msgspec.structs.asdict(mpi))


def findings(site: Site, images: Images, image: str, python: str) -> Iterator[Finding]:
    """Whether servables can run in an image, on this host.

    Raises:
        HpcserveError: They cannot.
    """
    file = images.file(image)
    yield Finding("image", "ok", f"{image}, {file.size_bytes / 1e6:.0f} MB, sha256 {file.sha256}")
    found = images.python(image, python)
    key = site.containers.signature_key
    yield Finding("signature", "ok" if key else "skipped", f"by {key}" if key else "the site wants none")
    yield Finding("Python", "ok", f"{_version(found)} for {found.machine}")
    missing = _missing(found)
    has = ", ".join(f"{OF_MODULES[module]} {version}" for module, version in found.packages.items())
    packages = runtime_dir(site.shared_dir, found.python, found.machine)
    if not missing:
        yield Finding("packages", "ok", has)
    elif packages.is_dir():
        yield Finding("packages", "ok", f"{', '.join(missing)} of {packages}{' beside ' if has else ''}{has}")
    else:
        told = f"{', '.join(missing)} missing; gather them by: hpcserve container runtime {image}"
        yield Finding("packages", "failed", told)
    ours = f"hpcserve {__version__}, wire protocol {', '.join(map(str, WIRE_VERSIONS))}"
    yield Finding("runtime", "ok", f"{ours}, is bound into its containers")
    yield from libraries(images.libraries(image, python), site.containers.gpu)


def _version(found: Interpreter) -> str:
    return ".".join(map(str, found.python))


def _missing(found: Interpreter) -> list[str]:
    """The packages that the image lacks."""
    return [package for module, package in OF_MODULES.items() if module not in found.packages]


def plan_of(environment: Environment, directory: Path, standard: Callable[[], Path]) -> Plan:
    """What a servable's image is to be.

    Args:
        environment: The manifest's.
        directory: The servable's.
        standard: Makes the image that is below where the manifest names none.

    Raises:
        ManifestError: The servable has no image that could be built.
    """
    wanted = environment.build
    if environment.image is None or wanted is None:
        raise ManifestError(
            'servable.toml: environment: nothing to build: it needs kind = "container", image = "/PATH" and a table '
            "[environment.build]"
        )
    pairs = (each.partition(":") for each in wanted.files)
    return Plan(
        image=Path(environment.image),
        base=Path(wanted.base) if wanted.base else standard(),
        python=environment.python,
        requirements=wanted.requirements,
        files=tuple((directory / source, target) for source, _, target in pairs),
        post=wanted.post,
    )


class SiteContainers:
    """A :class:`hpcserve.registry.discovery.Containers`.

    Args:
        site: The site.
        timeout_s: So long an image's Python may take to start.
    """

    servable = guest.SERVABLE

    def __init__(self, site: Site, *, timeout_s: float) -> None:
        self._shared_dir = site.shared_dir
        self._rules = rules_of(site.containers)
        self._timeout_s = timeout_s

    def published(self, environment: Environment) -> Environment:
        """The environment with what its image is now.

        Raises:
            ManifestError: The image cannot serve.
            ConfigError: The site runs no containers.
        """
        image = str(environment.image)
        images = Images(self._rules, os.environ, timeout_s=self._timeout_s)
        file = images.file(image)
        python = images.python(image, environment.python)
        missing = _missing(python)
        packages = runtime_dir(self._shared_dir, python.python, python.machine) if missing else None
        version = _version(python)
        if packages is not None and not packages.is_dir():
            raise ManifestError(
                f"image {image}: its Python {version} lacks {', '.join(missing)}; gather them once, where there is a "
                f"network, by: hpcserve container runtime {image}"
            )
        found = Image(
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            python=version,
            packages=str(packages or ""),
        )
        return msgspec.structs.replace(environment, published=found)

    def command(
        self, environment: Environment, module: str, *arguments: str, servable: Path
    ) -> tuple[list[str], dict[str, str]]:
        """The command that runs a module of ours in the image, and its environment."""
        inside = guest.guest(
            module,
            *arguments,
            image=str(environment.image),
            python=environment.python,
            packages=environment.published.packages if environment.published else "",
            servable=servable,
            environment={},
        )
        made = contained(self._rules, inside, os.environ)
        return list(made.argv), made.environment
