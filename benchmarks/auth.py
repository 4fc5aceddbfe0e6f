"""What logins cost: a session's requests a second with ``auth = "globus"`` beside ``"keys"``, and many HELLOs at once.

Requests: the same loop of one session on the wire, a fixed number outstanding, with a daemon of each kind; in turns,
and the ratio is made within a pair. The session with Globus is asked about meanwhile, as every login is.

HELLOs: so many clients, each with a key of its own, connect and say HELLO in one go: all with one person's token, with
those of some, each with that of another person. A HELLO's time is from sending it, the connection's handshake included,
until WELCOME, and the clients are in one process on the same machine. Who is told to come again does, and its time goes
on. Globus is the loopback stand-in, in a process of
its own.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zmq

from benchmarks.machine import undisturbed
from benchmarks.open_loop import percentile
from benchmarks.ratios import summary
from benchmarks.raw_client import RawClient
from benchmarks.roundtrip import in_turns
from benchmarks.service import ECHO, PATIENCE_S, running
from benchmarks.stand_in import StandIn, standing_in
from hpcserve.auth.keys import from_z85, new_key_pair
from hpcserve.client.call import Inference
from hpcserve.client.services import find_service
from hpcserve.client.ways import way_to
from hpcserve.wire import admin
from hpcserve.wire.frames import decode_from_admission, encode
from hpcserve.wire.messages import WIRE_VERSIONS, Hello, Refused, Welcome

X = np.zeros(64, np.float32)
WINDOW = 64
INTROSPECT = "POST /v2/oauth2/token/introspect"
PERIOD_S = 50.0
ADMIN = "admin@lab.example"


def run(*, pairs: int, n: int = 20_000, clients: int = 1000, people: Sequence[int] = (1, 10, 1000)) -> dict[str, Any]:
    """Measures both.

    Args:
        pairs: How often each loop is measured.
        n: Requests of one measurement.
        clients: How many say HELLO at once.
        people: How many different persons they are, one case each.
    """
    with standing_in() as globus:
        with _serving(None) as keys, _serving(globus) as logged_in:
            measured = in_turns(pairs, {"keys": lambda: _rate(keys, n), "globus": lambda: _rate(logged_in, n)})
        logins = {str(each): undisturbed(lambda each=each: _logins(globus, clients, each)) for each in people}  # type: ignore[misc]
    ratios = [ours["rps"] / bare["rps"] for ours, bare in zip(measured["globus"], measured["keys"], strict=True)]
    found = summary(ratios)
    return {
        "ratio_rps": found["median"],
        "rps": {side: round(float(np.median([each["rps"] for each in of])), 1) for side, of in measured.items()},
        "logins": logins,
        "intervals": {"ratio_rps": found},
        "targets": {
            "ratio_rps": ">= 0.97",
            "served": f"{clients} of {clients}",
            "introspections_per_token_and_period": "<= 1",
            "hello_p99_s": "< 2",
        },
        "method": {
            "globus": "the loopback stand-in, not Globus",
            "requests": {"bytes": X.nbytes, "pipelined": n, "outstanding": WINDOW, "transport": "unix sockets"},
            "logins": {"clients": clients, "transport": "tcp", "people": "the key of each case"},
        },
    }


@contextlib.contextmanager
def _serving(globus: StandIn | None) -> Iterator[RawClient]:
    """A session with a daemon of its own, which serves ``echo``."""
    token = "" if globus is None else globus.token(ADMIN)
    with running(None if globus is None else globus.site()):
        client = RawClient(token)
        try:
            client.call("publish", admin.Publish(path=str(ECHO)))
            client.call("deploy", admin.Deploy(servable="echo"))
            client.loop(_call(), WINDOW, WINDOW)
            yield client
        finally:
            client.close()


def _call() -> Inference:
    return Inference("echo.echo", X, parameters={}, timeout_s=None, priority=0, own=True)


def _rate(client: RawClient, n: int) -> dict[str, float]:
    began = time.perf_counter()
    client.loop(_call(), n, WINDOW)
    return {"rps": n / (time.perf_counter() - began)}


def _logins(globus: StandIn, clients: int, people: int) -> dict[str, Any]:
    """All clients of a new daemon at once."""
    tokens = [globus.token(f"user{number}@lab.example") for number in range(people)]
    with running(globus.site()):
        before = globus.asked(INTROSPECT)
        began = time.perf_counter()
        times = _hellos([tokens[number % people] for number in range(clients)])
        took_s = time.perf_counter() - began
        questions = globus.asked(INTROSPECT) - before
    return {
        "served": len(times),
        "clients": clients,
        "introspections": questions,
        "introspections_per_token_and_period": round(questions / people / max(1.0, took_s / PERIOD_S), 3),
        "hello_p50_s": round(percentile(times, 0.5), 3),
        "hello_p99_s": round(percentile(times, 0.99), 3),
        "all_s": round(took_s, 3),
    }


def _hellos(tokens: list[str]) -> list[float]:
    """Says HELLO with each of the tokens; returns how long those took that were welcome, in seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 2 * len(tokens) + 64)
    poller = zmq.Poller()
    said: dict[zmq.Socket[bytes], float] = {}
    told: dict[zmq.Socket[bytes], str] = {}
    times: list[float] = []
    pairs = [new_key_pair() for _ in tokens]
    with way_to(find_service(None)).reach() as reached:
        for token, keys in zip(tokens, pairs, strict=True):
            client = context.socket(zmq.DEALER)
            client.linger = 0
            client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
            client.curve_serverkey = from_z85(reached.record.public_key)
            client.connect(reached.admission.address)
            client.send(encode(Hello(WIRE_VERSIONS, "benchmark", token)))
            said[client] = time.perf_counter()
            told[client] = token
            poller.register(client, zmq.POLLIN)
        again: list[tuple[float, zmq.Socket[bytes]]] = []
        until = time.perf_counter() + PATIENCE_S
        while said and (now := time.perf_counter()) < until:
            for _, client in [each for each in again if each[0] <= now]:
                client.send(encode(Hello(WIRE_VERSIONS, "benchmark", told[client])))
            again = [each for each in again if each[0] > now]
            for client, _ in poller.poll(20 if again else 1000):
                answer = decode_from_admission(client.recv())
                if isinstance(answer, Refused) and answer.error.retry_after_ms is not None:
                    again.append((time.perf_counter() + answer.error.retry_after_ms / 1000, client))
                    continue
                took_s = time.perf_counter() - said.pop(client)
                poller.unregister(client)
                if isinstance(answer, Welcome):
                    times.append(took_s)
                client.close()
    context.destroy(linger=0)
    return times
