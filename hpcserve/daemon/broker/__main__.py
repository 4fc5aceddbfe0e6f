"""``python -m hpcserve.daemon.broker``: started by the supervisor."""

from __future__ import annotations

import gc
import resource
import sys

import zmq

from hpcserve.auth import keys
from hpcserve.config import Site
from hpcserve.core.exchange import Limits
from hpcserve.daemon.access import policy_of
from hpcserve.daemon.broker.broker import Broker
from hpcserve.daemon.broker.front import MOST_SESSIONS
from hpcserve.daemon.broker.sockets import bind_file
from hpcserve.daemon.broker.staging import places_of
from hpcserve.daemon.launch import (
    SERVICE_KEY,
    ChildStart,
    hub_address,
    receive_start,
    report_error,
    report_ready,
)
from hpcserve.daemon.lifeline import Lifeline
from hpcserve.daemon.ports import bind
from hpcserve.errors import HpcserveError


def main() -> int:
    """Serves until the supervisor is gone."""
    site, start = receive_start("broker")
    lifeline = Lifeline()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, max(1024, min(most, 65_536)))
    try:
        service_keys = keys.load(site.state_dir / SERVICE_KEY)
        broker = Broker(
            context,
            service_keys,
            _limits(site),
            start.epoch,
            outbox_bytes=site.budgets.outbox_bytes,
            most_sessions=most_sessions(site),
            policy=policy_of(site),
            places=places_of(site),
        )
        addresses = _bind(broker, site, start)
    except HpcserveError as error:
        report_error(start, error)
        return 1
    report_ready(start, addresses)
    # What was loaded until now stays: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    broker.run(lifeline.gone, lifeline.fileno())
    return 0


def most_sessions(site: Site) -> int:
    """How many sessions one identity may have; with keys, one key."""
    return site.globus.sessions_per_identity if site.auth == "globus" else MOST_SESSIONS


def _limits(site: Site) -> Limits:
    return Limits(
        broker_bytes=site.budgets.broker_bytes,
        session_bytes=site.budgets.session_bytes,
        max_queued=site.budgets.max_queued,
        recovery_grace_s=site.recovery.recovery_grace_s,
        session_linger_s=site.recovery.session_linger_s,
        hang_grace_s=site.recovery.hang_grace_s,
        unreachable_s=site.recovery.unreachable_s,
    )


def _bind(broker: Broker, site: Site, start: ChildStart) -> dict[str, str]:
    """Binds the sockets; returns the addresses, and the paths, of those that others connect to."""
    addresses = {}
    for name, socket in (("front", broker.front.socket), ("back", broker.back.socket)):
        addresses[name] = bind(socket, name, site.network.host, start.ports[name])
        if site.network.unix_sockets:
            addresses[f"{name}_file"] = path = f"{start.runtime_dir}/{name}"
            bind_file(socket, path)
    broker.hub.socket.bind(hub_address(start.runtime_dir))
    return addresses


if __name__ == "__main__":
    sys.exit(main())
