"""How this site's containers serve those who publish: the registry knows servables, and the cluster knows images."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hpcserve.cluster import guest
from hpcserve.cluster.containers import contained
from hpcserve.cluster.images import Images
from hpcserve.cluster.packages import OF_MODULES, runtime_dir
from hpcserve.config import Containers, Site
from hpcserve.errors import ManifestError
from hpcserve.servable.manifest import Environment, Image
from hpcserve.wire.launch import ContainerRules


def rules_of(containers: Containers) -> ContainerRules:
    """What agents are told."""
    return ContainerRules(**msgspec.structs.asdict(containers))


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
        missing = [package for module, package in OF_MODULES.items() if module not in python.packages]
        packages = runtime_dir(self._shared_dir, python.python, python.machine) if missing else None
        version = ".".join(map(str, python.python))
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
