"""The identifiers and words that every layer shares. No behaviour."""

from __future__ import annotations

from typing import Literal, NewType

Nonce = NewType("Nonce", bytes)
"""128 random bits that one client process chose for itself."""

SessionId = NewType("SessionId", bytes)
"""16 bytes: a digest of the client's CURVE key and its process's nonce. The same after a reconnect."""

Counter = NewType("Counter", int)
"""The number of a request within its session, from 1 upwards, never used twice."""

RequestKey = tuple[SessionId, Counter]
"""What names one request in the whole service."""

Epoch = NewType("Epoch", int)
"""The number of one run of the broker. A later run has a greater number."""

ReplicaId = NewType("ReplicaId", str)
PilotId = NewType("PilotId", str)
DeploymentName = NewType("DeploymentName", str)
EndpointName = NewType("EndpointName", str)
Digest = NewType("Digest", str)
"""The hexadecimal sha256 that names a servable's content."""

Z85Key = NewType("Z85Key", bytes)
"""A CURVE public key as 40 printable bytes (ZeroMQ RFC 32)."""

PublicKey = NewType("PublicKey", bytes)
"""A CURVE public key as its 32 raw bytes."""

PHASES = ("queue", "agent", "image", "start", "import", "load", "warm-up", "connect")
"""The phases of a cold start, in their order. Of a pilot: its job's wait in the queue; until its agent is let in. Of a
replica: until a copy of its image is on its node, where the site wants one; until its program runs, in its environment;
importing the servable's code; loading it, with its ``setup``; its warm-up; until the broker knows it."""

LossKind = Literal[
    "",
    "walltime",
    "preempted",
    "requeued",
    "node failed",
    "out of memory",
    "cancelled",
    "crashed",
    "version mismatch",
    "unreachable",
]
"""Why a replica or a pilot was lost, in one word; empty: it was not lost, somebody had asked for its end."""

ENROLMENT_WAIT_S = 600.0
"""So long an agent waits for its enrolment file, which the controller writes when it hears of its run."""
