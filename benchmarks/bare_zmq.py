"""The frozen baseline: what bare ZeroMQ costs on this machine, on the same work as a request.

Three processes on loopback, CURVE on every socket (``--plain`` turns it off), tensors in a frame of their own:

    direct   client DEALER -> ROUTER worker
    broker   client DEALER -> ROUTER [python broker, zmq.Poller] ROUTER -> DEALER worker

The worker echoes; nothing is decoded, queued or accounted. The client measures sequential latency, then the
rate with ``--window`` requests outstanding. One JSON object per line is printed for each topology.

    python -m benchmarks.bare_zmq [--bytes 256] [--n 3000] [--window 64] [--plain]

Frozen: every ratio that was ever written down is against this program. Types and docstrings may be added.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import time
from multiprocessing.synchronize import Event

import zmq

DRAIN = 64  # messages taken from one socket before the other is looked at


Context = zmq.Context[zmq.Socket[bytes]]
Keys = tuple[bytes, bytes] | None


def socket(context: Context, kind: int, *, server: bool, keys: Keys) -> zmq.Socket[bytes]:
    """A socket without a high-water mark, with CURVE where there are ``keys``."""
    sock: zmq.Socket[bytes] = context.socket(kind)
    sock.set_hwm(0)
    sock.linger = 0
    if keys and server:
        sock.curve_server = True
        sock.curve_publickey, sock.curve_secretkey = keys
    elif keys:
        sock.curve_serverkey = keys[0]
        sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
    return sock


def worker(address: str, keys: Keys, bind: bool, ready: Event) -> None:  # noqa: FBT001 (frozen)
    """Echoes whole messages: as ``direct``'s server, or behind the broker."""
    sock = socket(zmq.Context(), zmq.ROUTER if bind else zmq.DEALER, server=bind, keys=keys)
    sock.bind(address) if bind else sock.connect(address)
    if not bind:
        sock.send(b"ready")
    ready.set()
    while True:
        sock.send_multipart(sock.recv_multipart(copy=False), copy=False)


def broker(front_address: str, back_address: str, keys: Keys, ready: Event) -> None:
    """Passes whole messages between its clients and its one worker."""
    context: Context = zmq.Context()
    front = socket(context, zmq.ROUTER, server=True, keys=keys)
    back = socket(context, zmq.ROUTER, server=True, keys=keys)
    front.bind(front_address)
    back.bind(back_address)
    ready.set()
    replica = back.recv_multipart()[0]
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    while True:
        for sock, _ in poller.poll():
            for _ in range(DRAIN):
                try:
                    frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                if sock is front:
                    back.send_multipart([replica, *frames], copy=False)
                else:
                    front.send_multipart(frames[1:], copy=False)


def measure(address: str, keys: Keys, size: int, n: int, window: int) -> dict[str, float]:
    """``n`` calls one after the other, then ``2 * n`` with ``window`` outstanding."""
    sock = socket(zmq.Context(), zmq.DEALER, server=False, keys=keys)
    sock.connect(address)
    message = [b"header", b"x" * size]
    for _ in range(min(100, n)):
        sock.send_multipart(message)
        sock.recv_multipart()
    latencies = []
    for _ in range(n):
        start = time.perf_counter()
        sock.send_multipart(message, copy=False)
        sock.recv_multipart(copy=False)
        latencies.append(time.perf_counter() - start)
    latencies.sort()
    total, sent, done = 2 * n, 0, 0
    start = time.perf_counter()
    while done < total:
        while sent < total and sent - done < window:
            sock.send_multipart(message, copy=False)
            sent += 1
        sock.recv_multipart(copy=False)
        done += 1
    elapsed = time.perf_counter() - start
    return {
        "p50_us": round(latencies[n // 2] * 1e6, 1),
        "p99_us": round(latencies[int(n * 0.99)] * 1e6, 1),
        "rps": round(total / elapsed, 1),
        "mbps": round(2 * size * total / elapsed / 1e6, 1),
    }


def main() -> None:
    """Prints one line for each topology."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bytes", type=int, default=256)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    keys = None if args.plain else zmq.curve_keypair()
    context = mp.get_context("spawn")
    for name in ("direct", "broker"):
        probes: list[zmq.SyncSocket] = [zmq.Context.instance().socket(zmq.REP) for _ in range(2)]
        ports = [p.bind_to_random_port("tcp://127.0.0.1") for p in probes]
        for p in probes:
            p.close(0)
        front, back = (f"tcp://127.0.0.1:{port}" for port in ports)
        time.sleep(0.1)
        children = []
        if name == "broker":
            up = context.Event()
            children.append(context.Process(target=broker, args=(front, back, keys, up), daemon=True))
            children[-1].start()
            up.wait()
        up = context.Event()
        target = (front, keys, True, up) if name == "direct" else (back, keys, False, up)
        children.append(context.Process(target=worker, args=target, daemon=True))
        children[-1].start()
        up.wait()
        time.sleep(0.2)
        print(
            json.dumps(
                {
                    "topology": name,
                    "curve": keys is not None,
                    "bytes": args.bytes,
                    **measure(front, keys, args.bytes, args.n, args.window),
                }
            ),
            flush=True,
        )
        for child in children:
            child.terminate()
            child.join()


if __name__ == "__main__":
    main()
