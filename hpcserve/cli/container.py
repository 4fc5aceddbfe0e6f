"""``hpcserve container``: what servables in containers need before they are published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.exits import OK

if TYPE_CHECKING:
    from hpcserve.cluster.images import Images
    from hpcserve.config import Site

app = typer.Typer(help="Prepare containers for servables.", rich_markup_mode=None)

TIMEOUT_S = 120.0
"""An image of many GB may have to be read from a cold disk before its Python starts."""
RANKS = Annotated[bool, typer.Option("--ranks", help="For servables too whose replicas are of several MPI ranks.")]
PYTHON = Annotated[str, typer.Option(metavar="NAME", help="The image's interpreter.")]


@app.command("runtime")
def _runtime(
    *,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The path of an image.")],
    python: PYTHON = "python3",
    ranks: RANKS = False,
) -> None:
    """Gather the packages that hpcserve needs of IMAGE's Python, for all images of its kind that lack them."""
    from functools import partial

    from hpcserve import config
    from hpcserve.cli.terminal import waiting
    from hpcserve.cluster.gather import gather

    site = config.load_site(None)
    with waiting(f"looking at {image}"):
        images, path = _images(site), str(config.expanded(str(image)))
        found = images.python(path, python)
    with waiting("gathering packages"):
        compiled = partial(images.compile, path, python)
        place, new = gather(site.shared_dir, found.python, found.machine, found.libc, compiled=compiled, ranks=ranks)
    typer.echo(f"{'gathered' if new else 'there already:'} {place}")


@app.command("check")
def _check(
    *,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The path of an image.")],
    python: PYTHON = "python3",
    ranks: RANKS = False,
) -> int:
    """Run IMAGE on this host, and say whether servables can run in it: its Python, its packages, its libraries."""
    from hpcserve import config
    from hpcserve.cli import checks
    from hpcserve.cluster.finding import Finding
    from hpcserve.daemon.images import findings
    from hpcserve.errors import HpcserveError

    site = config.load_site(None)
    place = str(config.expanded(str(image)))
    code = OK
    try:
        for finding in findings(site, _images(site), place, python, ranks=ranks):
            code = max(code, checks.tell(finding))
    except HpcserveError as error:
        code = checks.tell(Finding("image", "failed", str(error)))
    return code


@app.command("build")
def _build(
    *,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The servable's directory, with servable.toml.")],
    mirror: Annotated[str, typer.Option(metavar="URL", help="A Debian mirror; default: that of apt here.")] = "",
) -> int:
    """Build the image that the servable in DIR names, of what its [environment.build] says."""
    import os
    from functools import partial

    from msgspec.structs import replace

    from hpcserve import config
    from hpcserve.cli.stopping import Stopped, Stops
    from hpcserve.cli.terminal import note
    from hpcserve.cluster.building import Builder
    from hpcserve.daemon.images import plan_of
    from hpcserve.errors import ConfigError
    from hpcserve.registry.manifest_file import read_manifest

    stops = Stops()
    site = config.load_site(None)
    place = config.expanded(str(directory))
    manifest = read_manifest(place)
    if site.containers.runtime != "apptainer":
        runtime = site.containers.runtime
        raise ConfigError(f"containers.runtime: {runtime!r} builds no images: that needs a site with 'apptainer'")
    command = site.containers.command or site.containers.runtime
    # What is built here is signed by nobody yet.
    images = _images(replace(site, containers=replace(site.containers, signature_key="")))
    builder = Builder(images, command=command, cache=config.cache_dir(), environment=os.environ, tell=note)
    try:
        with stops.work():
            new = builder.build(plan_of(manifest, place, partial(builder.standard, mirror)))
    except Stopped:
        return stops.exit_code()
    typer.echo(f"{'built' if new else 'there already:'} {manifest.environment.image}")
    return OK


def _images(site: Site) -> Images:
    import os

    from hpcserve.cluster.images import Images
    from hpcserve.daemon.images import rules_of

    return Images(rules_of(site.containers), os.environ, timeout_s=TIMEOUT_S)
