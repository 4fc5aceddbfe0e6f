"""A node loses its power while 200 requests are in flight: are they answered, and how soon is the loss noticed?

Two replicas have a node each. Noticed is the moment at which the status does not list the replica any more: its
requests have been given to the other one by then.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.facility import TIMED, Box, Facility, Feed, answered, daemon, status
from hpcserve.client.sync import Client
from tests.facility.box.host import until

IN_FLIGHT = 200
RUN_S = 0.02
PATIENCE_S = 60.0


def measure(box: Box, runs: int) -> dict[str, Any]:
    """Takes the power from so many nodes, one after the other; each gets it back."""
    with daemon(box, "power", pilots={"slots": 1}) as (facility, client):
        facility.deploy(client, TIMED, replicas=2)
        found = [_once(box, facility, client) for _ in range(runs)]
    counts, noticed = zip(*found, strict=True)
    return {
        "in_flight": IN_FLIGHT,
        "answered": list(counts),
        "noticed_s": [round(each, 2) for each in noticed],
        "worst_noticed_s": round(max(noticed), 2),
    }


def _once(box: Box, facility: Facility, client: Client) -> tuple[int, float]:
    """How many of the requests in flight were answered, and when the loss was noticed."""
    facility.wait_ready(client, "timed", 2)
    seen = status(client)
    ready = [each for each in seen.deployments[0].replicas if each.state == "ready"]
    hosts = {each.pilot: each.host for each in seen.pilots}
    lost = ready[0].replica
    with Feed(client, facility.home / "runs", outstanding=IN_FLIGHT, sleep_s=RUN_S) as feed:
        until(lambda: len(feed.answered_s) >= IN_FLIGHT, "requests are answered", PATIENCE_S)
        box.power_off(hosts[ready[0].pilot])
        off_s = time.monotonic()
        in_flight = feed.in_flight()
        until(lambda: lost not in {each.replica for each in status(client).deployments[0].replicas}, "it is noticed")
        noticed_s = time.monotonic() - off_s
    feed.wait()
    box.power_on(hosts[ready[0].pilot])
    return answered(in_flight), noticed_s
