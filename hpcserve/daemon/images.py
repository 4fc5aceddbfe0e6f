"""How this site's containers serve those who publish: the registry knows servables, and the cluster knows images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from hpcserve import __version__
from hpcserve.cluster import guest
from hpcserve.cluster.building import Plan
from hpcserve.cluster.containers import contained
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.image_check import libraries, unfit_for_ranks
from hpcserve.cluster.images import Images, Interpreter, Runtime
from hpcserve.cluster.packages import needed, runtime_dir
from hpcserve.config import Containers, Mpi, Site
from hpcserve.errors import ConfigError, ManifestError
from hpcserve.registry.vault import keep_image
from hpcserve.servable.manifest import Environment, Image, Manifest
from hpcserve.wire.launch import ContainerRules, MpiRules, StagingRules
from hpcserve.wire.messages import WIRE_VERSIONS


def rules_of(containers: Containers) -> ContainerRules:
    """What agents are told."""
    told = msgspec.structs.asdict(containers)
    del told["trust_publishers"]  # it is of what may be published
    return ContainerRules(**told)


def mpi_rules_of(mpi: Mpi) -> MpiRules:
    """What agents are told of MPI."""
    return MpiRules(**msgspec.structs.asdict(mpi))


def staging_rules_of(site: Site) -> StagingRules:
    """What agents are told of staging."""
    staging = site.staging
    return StagingRules(
        directory=site.staging_dir,
        inline_limit_bytes=staging.inline_limit_bytes,
        https_limit_bytes=staging.https_limit_bytes,
        compression=staging.compression,
        chunk_bytes=staging.chunk_bytes,
        quota_bytes=staging.quota_bytes,
        roots=staging.roots,
        reference_bytes=staging.reference_bytes,
    )


def findings(site: Site, images: Images, image: str, python: str, *, ranks: bool) -> Iterator[Finding]:
    """Whether servables can run in an image, on this host; ``ranks``: those too whose replicas are of several ranks.

    Raises:
        HpcserveError: They cannot.
    """
    file = images.file(image)
    yield Finding("image", "ok", f"{image}, {file.size_bytes / 1e6:.0f} MB, sha256 {file.sha256}")
    found = images.python(image, python, ranks=ranks)
    key = site.containers.signature_key
    yield Finding("signature", "ok" if key else "skipped", f"by {key}" if key else "the site wants none")
    yield Finding("Python", "ok", f"{_version(found)} for {found.machine}")
    yield from _of_the_runtime(site, images, image, python, found, ranks=ranks)
    there = images.libraries(image, python, mpi_rules_of(site.mpi) if ranks else None)
    yield from libraries(there, site.containers.gpu, site.mpi.family, ranks=ranks)


def _of_the_runtime(
    site: Site, images: Images, image: str, python: str, found: Interpreter, *, ranks: bool
) -> Iterator[Finding]:
    """Whether a replica can start: its own code runs in the image, with the packages that are bound into it."""
    missing = _missing(found, ranks=ranks)
    packages = _gathered(site.shared_dir, image, found, ranks=ranks) if missing else None
    if packages is not None and not packages.is_dir():
        told = f"{', '.join(missing)} missing; gather them by: {_gathers(image, ranks=ranks)}"
        yield Finding("packages", "failed", told)
        return
    try:
        inside = images.runtime(image, python, str(packages or ""), mpi_rules_of(site.mpi) if ranks else None)
    except ManifestError as error:
        again = f"; if {packages} is not whole, remove it, and: {_gathers(image, ranks=ranks)}" if packages else ""
        yield Finding("runtime", "failed", f"{error.message}{again}")
        return
    named = needed(ranks=ranks)
    has = ", ".join(f"{named[module]} {version}" for module, version in inside.packages.items())
    yield Finding("packages", "ok", f"{has}; {', '.join(missing)} of {packages}" if packages else has)
    yield runtime_finding(inside)


def runtime_finding(inside: Runtime) -> Finding:
    """Whether hpcserve in an image is this one."""
    theirs, ours = _software(inside.software, inside.wire), _software(__version__, WIRE_VERSIONS)
    if theirs != ours:
        told = f"in the image runs {theirs}, and this is {ours}: hpcserve was replaced meanwhile; try again"
        return Finding("runtime", "failed", told)
    return Finding("runtime", "ok", f"{theirs}, runs in it")


def _software(version: str, wire: Sequence[int]) -> str:
    return f"hpcserve {version}, wire protocol {', '.join(map(str, wire))}"


def _version(found: Interpreter) -> str:
    return ".".join(map(str, found.python))


def _gathers(image: str, *, ranks: bool) -> str:
    """The command that gathers what an image lacks."""
    return f"hpcserve container runtime {image}{' --ranks' if ranks else ''}"


def _gathered(shared_dir: Path, image: str, found: Interpreter, *, ranks: bool) -> Path:
    """Where the packages are that were gathered for an image, if they were.

    Raises:
        ManifestError: None can be.
    """
    try:
        return runtime_dir(shared_dir, found.python, found.machine, found.libc, ranks=ranks)
    except ConfigError as error:
        raise ManifestError(f"image {image}: {error}") from error


def _missing(found: Interpreter, *, ranks: bool) -> list[str]:
    """The packages that the image lacks."""
    return [package for module, package in needed(ranks=ranks).items() if module not in found.packages]


def plan_of(manifest: Manifest, directory: Path, standard: Callable[[Sequence[str]], Path]) -> Plan:
    """What a servable's image is to be.

    Args:
        manifest: The servable's.
        directory: The servable's.
        standard: Makes an image of hpcserve's own, with these layers, to stand on where the manifest names no file.

    Raises:
        ManifestError: The servable has no image that could be built.
    """
    environment, wanted = manifest.environment, manifest.environment.build
    if environment.image is None or wanted is None:
        raise ManifestError(
            'servable.toml: environment: nothing to build: it needs kind = "container", image = "/PATH" and a table '
            "[environment.build]"
        )
    pairs = (each.partition(":") for each in wanted.files)
    return Plan(
        image=Path(environment.image),
        base=Path(wanted.base) if isinstance(wanted.base, str) and wanted.base[:1] == "/" else standard(wanted.layers),
        python=environment.python,
        requirements=wanted.requirements,
        files=tuple((directory / source, target) for source, _, target in pairs),
        post=wanted.post,
        ranks=manifest.ranks.size > 1,
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
        self._keep_from = Path(site.staging_dir) if site.mode == "service" else None
        self._rules = rules_of(site.containers)
        self._timeout_s = timeout_s
        self._mpi = mpi_rules_of(site.mpi)

    def published(self, manifest: Manifest) -> Environment:
        """The servable's environment with what its image is now; in mode ``service`` the image is a copy of ours.

        Raises:
            ManifestError: The image cannot serve.
            ConfigError: The site runs no containers.
            StorageFull: There is no room for the copy.
        """
        environment, ranks = manifest.environment, manifest.ranks.size > 1
        if self._keep_from is not None:
            kept = keep_image(Path(str(environment.image)), self._shared_dir, self._keep_from)
            environment = msgspec.structs.replace(environment, image=str(kept))
        image = str(environment.image)
        images = Images(self._rules, os.environ, timeout_s=self._timeout_s)
        file = images.file(image)
        python = images.python(image, environment.python, ranks=ranks)
        missing = _missing(python, ranks=ranks)
        packages = _gathered(self._shared_dir, image, python, ranks=ranks) if missing else None
        version = _version(python)
        if packages is not None and not packages.is_dir():
            raise ManifestError(
                f"image {image}: its Python {version} lacks {', '.join(missing)}; gather them once, where there is a "
                f"network, by: {_gathers(image, ranks=ranks)}"
            )
        if ranks:
            found_there = images.libraries(image, environment.python, self._mpi)
            unfit = unfit_for_ranks(found_there, self._mpi.family)
            if unfit:
                raise ManifestError(f"image {image}: ranks.size is {manifest.ranks.size}; {unfit}")
        found = Image(
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            python=version,
            packages=str(packages or ""),
        )
        return msgspec.structs.replace(environment, published=found)

    def command(
        self, manifest: Manifest, module: str, *arguments: str, servable: Path
    ) -> tuple[list[str], dict[str, str]]:
        """The command that runs a module of ours in the servable's image, and its environment."""
        environment, rules = manifest.environment, self._rules
        inside = guest.guest(
            module,
            *arguments,
            image=str(environment.image),
            python=environment.python,
            packages=environment.published.packages if environment.published else "",
            servable=servable,
            environment={},
        )
        if manifest.ranks.size > 1:  # one process, but its code may import an MPI that the site binds
            rules = msgspec.structs.replace(rules, binds=(*self._mpi.binds, *rules.binds))
        made = contained(rules, inside, os.environ)
        return list(made.argv), made.environment
