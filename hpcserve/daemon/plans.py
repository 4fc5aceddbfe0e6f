"""What the daemon consists of: three processes, their commands and their sockets. Starts none of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from hpcserve.config import Site, expanded

BROKER, CONTROLLER, ADMISSION = "broker", "controller", "admission"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a child is.

    Attributes:
        name: Its name.
        argv: Its command.
        placed: What names the site of a daemon that runs in a job; empty: it runs in none.
        ports: The ports that each of its sockets may have, in the order in which they are tried; 0 is any.
    """

    name: str
    argv: tuple[str, ...]
    placed: str = ""
    ports: dict[str, tuple[int, ...]] = field(default_factory=dict)


def daemon_plans(site: Site, site_option: str | None, *, placed: str = "") -> tuple[Plan, ...]:
    """The three processes of the daemon.

    Args:
        site: The site.
        site_option: What names it to them, as ``--site``.
        placed: See :class:`Plan`.
    """
    option = () if site_option is None else ("--site", site_option)
    network = site.network
    ports: dict[str, dict[str, tuple[int, ...]]] = {
        BROKER: {"front": network.ports(network.front_port), "back": network.ports(network.back_port)},
        CONTROLLER: {},
        ADMISSION: {"admission": network.ports(network.admission_port)},
    }
    return tuple(
        Plan(
            name=name, argv=(sys.executable, "-m", f"hpcserve.daemon.{name}", *option), placed=placed, ports=ports[name]
        )
        for name in (BROKER, CONTROLLER, ADMISSION)
    )


def site_option(option: str | None) -> str | None:
    """What names a site to a child: the path of a site file made absolute, a name as it is."""
    if option is not None and (option.endswith(".toml") or "/" in option):
        return str(expanded(option))
    return option
