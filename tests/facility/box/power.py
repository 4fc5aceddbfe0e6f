"""``power-off NODE`` and ``power-on NODE``, for those who try things by hand on the login node of a box.

Run there as ``python -m tests.facility.box.power DIRECTORY off|on [NODE]``. Tests have ``Box.power_off`` and
``Box.power_on``: a box does not hear of what is done by hand.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.facility.box.errors import BoxError
from tests.facility.box.files import LOGIN, is_login
from tests.facility.box.host import Host
from tests.facility.box.node import Node

ABOUT = {
    "off": "pulls the node's cable, so that nobody is told, and ends all that runs on it",
    "on": "boots the node again, and lets it join the cluster",
}
LOGINS_INIT = 1
"""As the login node itself counts."""


def main(directory: Path, action: str, nodes: list[str]) -> int:
    """The exit code; 2 where the words are wrong."""
    run = directory / "run"
    known = sorted(each.stem for each in run.glob("*.cable"))
    if len(nodes) != 1 or nodes[0] not in known:
        print(f"usage: power-{action} NODE: {ABOUT[action]}; nodes: {', '.join(known)}", file=sys.stderr)
        return 2
    node = nodes[0]
    try:
        _switch_on(directory, node) if action == "on" else _switch_off(directory, node)
    except BoxError as error:
        print(f"power-{action}: {error}", file=sys.stderr)
        return 1
    return 0


def _switch_off(directory: Path, node: str) -> None:
    if not _init(directory, node).exists():
        raise BoxError(f"{node} is off already; power-on {node} brings it back")
    login = Host(LOGIN, LOGINS_INIT, directory)
    cable = directory / "run" / f"{node}.cable"
    login.run(["ip", "link", "set", cable.read_text().strip(), "nomaster"])
    os.kill(int(_init(directory, node).read_text()), signal.SIGKILL)
    # Its process may stand in /proc until others have buried all that ran on the node.
    _init(directory, node).unlink()


def _switch_on(directory: Path, node: str) -> None:
    if _init(directory, node).exists():
        raise BoxError(f"{node} is on already")
    booted = Node(node, Host(LOGIN, LOGINS_INIT, directory), directory)
    booted.boot()
    if not is_login(node):
        booted.start_slurmd()


def _init(directory: Path, node: str) -> Path:
    """The file that names the first process of a node that is on."""
    return directory / "run" / f"{node}.pid"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
