"""From an endpoint's name to the deployment that serves it; today each endpoint has one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hpcserve.core.access import Deployment as Accessed
from hpcserve.core.spelling import nearest, shortened
from hpcserve.errors import HpcserveError, ServiceUnavailable, UnknownEndpoint, UnknownMethod
from hpcserve.types import DeploymentName, EndpointName, ReplicaId


class Deployment(NamedTuple):
    """A deployment as the broker needs it.

    ``methods`` maps each method to whether it is idempotent; ``error`` is set when its replicas cannot
    start, and then answers every request. ``max_queue_*`` bound its queue, see :mod:`hpcserve.core.lanes`.
    ``kill_cancelled_s``: so long its replicas may run what nobody waits for; None: as long as they like. ``access``:
    whose it is, and what it serves.
    """

    name: DeploymentName
    methods: Mapping[str, bool]
    default_method: str
    replicas: tuple[ReplicaId, ...]
    error: HpcserveError | None = None
    max_queue_bytes: float = float("inf")
    max_queue_s: float = float("inf")
    kill_cancelled_s: float | None = None
    access: Accessed = Accessed()


class RoutingTable(NamedTuple):
    """All endpoints and deployments."""

    endpoints: Mapping[EndpointName, DeploymentName] = {}
    deployments: Mapping[DeploymentName, Deployment] = {}

    def route(self, endpoint: str, method: str) -> tuple[DeploymentName, bool]:
        """The deployment for a call, and whether the method may run twice. No method: the default one.

        Raises:
            UnknownEndpoint: No endpoint has this name; the nearest names are told.
            UnknownMethod: The servable has no such method.
            DeploymentFailed: The deployment's own error.
        """
        name = self.endpoints.get(EndpointName(endpoint))
        if name is None:
            raise unknown_endpoint(endpoint, self.endpoints)
        deployment = self.deployments[name]
        idempotent = deployment.methods.get(method or deployment.default_method)
        if idempotent is None and not method:
            raise UnknownMethod(f"endpoint {shortened(endpoint)} has several methods; {_call(endpoint, deployment)}")
        if idempotent is None:
            near = nearest(method, deployment.methods)
            raise UnknownMethod(f"endpoint {shortened(endpoint)} has no method {shortened(method)}{near}")
        if deployment.error is not None:
            raise deployment.error
        return name, idempotent


def unknown_endpoint(endpoint: str, known: Iterable[str]) -> UnknownEndpoint:
    """What to tell somebody who wrote the name of an endpoint that does not exist, and may know of these."""
    return UnknownEndpoint(f"no endpoint {shortened(endpoint)}{nearest(endpoint, known)}")


def of_nobody(endpoint: str) -> UnknownEndpoint:
    """What to tell somebody whom no list of the site names, whether there is such an endpoint or not."""
    return UnknownEndpoint(
        f"no endpoint {shortened(endpoint)} is visible to you: the site's [access] lets you do nothing here (see: "
        "hpcserve whoami); ask its operator"
    )


def groups_unknown(endpoint: str) -> ServiceUnavailable:
    """What to tell somebody who does not see it, and perhaps would if his groups could be asked for."""
    return ServiceUnavailable(
        f"Globus does not say at present in which groups you are, and no endpoint {shortened(endpoint)} is visible to "
        "you without; try again in a moment",
        retry_after_s=1.0,
    )


MOST_METHODS = 10


def _call(endpoint: str, deployment: Deployment) -> str:
    """What to tell somebody who named no method: the most alike to the endpoint's own name comes first."""
    alike = difflib.SequenceMatcher(b=endpoint)

    def unlike(method: str) -> tuple[float, str]:
        alike.set_seq1(method)
        return -alike.ratio(), method

    likely = sorted(deployment.methods, key=unlike)
    more = ", …" if len(likely) > MOST_METHODS else ""
    shown = ", ".join(f"{endpoint}.{method}" for method in likely[:MOST_METHODS])
    return f"name one as ENDPOINT.METHOD: {shown}{more}"
