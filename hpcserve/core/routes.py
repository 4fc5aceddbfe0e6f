"""From an endpoint's name to the deployment that serves it; today each endpoint has one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hpcserve.errors import HpcserveError, UnknownEndpoint, UnknownMethod
from hpcserve.types import DeploymentName, EndpointName, ReplicaId


class Deployment(NamedTuple):
    """A deployment as the broker needs it.

    ``methods`` maps each method to whether it is idempotent; ``error`` is set when its replicas cannot
    start, and then answers every request.
    """

    name: DeploymentName
    methods: Mapping[str, bool]
    default_method: str
    replicas: tuple[ReplicaId, ...]
    error: HpcserveError | None = None


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
            raise UnknownEndpoint(f"no endpoint {shortened(endpoint)}; {nearest(endpoint, self.endpoints)}")
        deployment = self.deployments[name]
        idempotent = deployment.methods.get(method or deployment.default_method)
        if idempotent is None:
            near = nearest(method, deployment.methods)
            raise UnknownMethod(f"endpoint {shortened(endpoint)} has no method {shortened(method)}; {near}")
        if deployment.error is not None:
            raise deployment.error
        return name, idempotent


LONGEST_NAME = 128
"""Longer ones are neither compared nor repeated in a message."""


def shortened(name: str) -> str:
    """A name for a message."""
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to tell somebody who asked for a ``name`` that is not among the ``known`` ones."""
    names = sorted(known)
    if len(name) > LONGEST_NAME:
        return f"a name has at most {LONGEST_NAME} characters"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    if not names:
        return "there is none yet"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"known: {shown}"
