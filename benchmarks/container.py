"""How much later a replica is ready in a container than the same one without: pairs, one after the other.

Both are deployed to a pilot that runs already, so what differs is the start of the container and what Python imports
from an image. The image is in the cache of files after the first pair, which is not counted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ratios import summary
from benchmarks.service import ECHO, PATIENCE_S, Service, own_home, running_in
from hpcserve import config
from hpcserve.client.sync import Client
from hpcserve.wire import admin
from tests.integration import images

MOST_S = 1.0
LOOK_S = 0.01
SIDES = ("plain", "container")


def run(*, pairs: int, staged: bool = True) -> dict[str, Any]:
    """Measures ``pairs`` pairs after one that warms up.

    Args:
        pairs: How many.
        staged: The replica runs from a copy on its node, as with ``containers.stage_dir``.

    Raises:
        RuntimeError: There is no Apptainer.
    """
    if shutil.which("apptainer") is None:
        raise RuntimeError("no Apptainer here; on Debian, as root: tests/system-packages")
    with own_home() as home:
        (home / "site.toml").write_text('[containers]\nruntime = "apptainer"\n' + _staged(home, staged=staged))
        os.environ["HPCSERVE_SITE"] = str(home / "site.toml")
        image = images.cached("python", home / "images")
        images.packages(config.load_site(None).shared_dir, home / "images")
        with running_in(home) as service, Client() as client:
            for side in SIDES:
                servable = _servable(home / side, side, image if side == "container" else None)
                client.call("publish", admin.Publish(path=str(servable)), admin.Published, timeout_s=PATIENCE_S)
            size_mb = image.stat().st_size / 1e6
            found = [{side: _ready_s(service, client, side) for side in SIDES} for _ in range(pairs + 1)][1:]
    later = summary([each["container"] - each["plain"] for each in found])
    return {
        "ready_s": {side: round(median(each[side] for each in found), 3) for side in SIDES},
        "later_s": later["median"],
        "intervals": {"later_s": later},
        "image_mb": round(size_mb, 1),
        "targets": {"later_s": f"<= {MOST_S:g}"},
        "reached": {"later_s": later["median"] <= MOST_S},
    }


def _staged(home: Path, *, staged: bool) -> str:
    """What the site file says of copies."""
    if not staged:
        return ""
    (home / "local").mkdir()
    return f'stage_dir = "{home}/local"\n'


def _servable(place: Path, name: str, image: Path | None) -> Path:
    """The example ``echo`` under another name, in a container or not."""
    shutil.copytree(ECHO, place)
    manifest = (ECHO / "servable.toml").read_text().replace('name = "echo"', f'name = "{name}"')
    if image is not None:
        manifest += f'\n[environment]\nkind = "container"\nimage = "{image}"\n'
    (place / "servable.toml").write_text(manifest)
    return place


def _ready_s(service: Service, client: Client, name: str) -> float:
    """Seconds from the deployment to a replica that is ready; then it is gone again."""
    began = time.monotonic()
    client.call("deploy", admin.Deploy(servable=name), admin.Deployed)
    _until(lambda: [each.state for each in service.status().deployments] == ["ready"], f"{name} is ready")
    ready_s = time.monotonic() - began
    client.call("undeploy", admin.Undeploy(endpoint=name), admin.Undeployed)
    _until(lambda: not any(each.replicas for each in service.status().pilots), f"{name} is gone")
    return ready_s


def _until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(LOOK_S)
