"""What the demo does, step by step, and what it finds. Every number comes from answers that were received.

The daemon is tied to this process and has its home (:mod:`hpcserve.cli.demo_home`) in a temporary directory: however
the demo ends, the daemon ends too, and nothing of the user's own is touched. How the findings look is decided in
:mod:`hpcserve.cli.demo`.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import numpy as np

from hpcserve.cli import demo_home, demo_surrogate
from hpcserve.cli.daemon_process import DaemonProcess
from hpcserve.cli.demo_picture import picture
from hpcserve.cli.demo_surrogate import CLIENTS, RMS_AT_MOST, Callers, Surrogate
from hpcserve.cli.deploy import wait_ready
from hpcserve.cli.latency_plot import Latencies
from hpcserve.cli.pi_check import is_pi
from hpcserve.client import Client
from hpcserve.errors import HpcserveError, ServiceUnavailable
from hpcserve.examples import path as example
from hpcserve.examples.digits.train import held_out, train
from hpcserve.examples.surrogate.fit import fit
from hpcserve.wire.admin import AskStatus, Deploy, Deployed, Publish, Published, Status

if TYPE_CHECKING:
    from hpcserve.cli.stopping import Stops
    from hpcserve.client.outputs import Outputs

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]

ACCURACY_AT_LEAST = 0.9
PI_DIGITS = 100_000
SYNC_REQUESTS = 500
MAPPED_REQUESTS = 2_000
IN_FLIGHT = 64
SETUP_S = 120.0
ANSWER_S = 60.0
END_S = 40.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what the demo reports as JSON."""


class Digits(Finding, frozen=True):
    """``accuracy`` of the answers for the held-out half."""

    accuracy: float
    images: int


class Pi(Finding, frozen=True):
    """Whether the digits that were received are those of π."""

    correct: bool
    ndigits: int


class Latency(Finding, frozen=True):
    """Of calls made one after the other, in milliseconds."""

    p50: float
    p99: float
    requests: int


class Batch(Finding, frozen=True):
    """All held-out images in one request."""

    accuracy: float
    images: int
    images_per_s: float


class Recovery(Finding, frozen=True):
    """The broker's death.

    ``in_flight``: requests without an answer when it was killed. ``recovered_s``: from then to the first answer of
    a request that was made later. ``epochs``: of the broker that was killed, and of the new one.
    """

    killed: str
    in_flight: int
    submitted: int
    answered: int
    recovered_s: float
    epochs: tuple[int, int]
    errors: tuple[str, ...]


class Findings(Finding, frozen=True):
    """Everything that the demo found out."""

    digits: Digits
    pi: Pi
    surrogate: Surrogate
    latency_ms: Latency
    batch: Batch
    requests_per_s: float
    recovery: Recovery
    left_running: int
    left_queued: int = 0

    def wrong(self) -> list[str]:
        """What is not as it should be."""
        lost = self.recovery.submitted - self.recovery.answered
        first = f", the first because: {self.recovery.errors[0]}" if self.recovery.errors else ""
        found = {
            f"accuracy {self.digits.accuracy:.3f} is below {ACCURACY_AT_LEAST}": self.digits.accuracy
            < ACCURACY_AT_LEAST,
            f"accuracy of the batch, {self.batch.accuracy:.3f}, differs": self.batch.accuracy != self.digits.accuracy,
            "the digits of pi are wrong": not self.pi.correct,
            f"the surrogate's error, {self.surrogate.error.rms:.4f}, is above {RMS_AT_MOST}": not (
                self.surrogate.error.rms <= RMS_AT_MOST
            ),
            f"{lost} requests were lost when the broker was killed{first}": lost != 0,
            "no request was in flight when the broker was killed": self.recovery.in_flight == 0,
            "no new broker took over": self.recovery.epochs[1] <= self.recovery.epochs[0],
            f"{self.left_running} processes are still running": self.left_running != 0,
            f"{self.left_queued} jobs are still with the batch scheduler": self.left_queued != 0,
        }
        return [what for what, is_so in found.items() if is_so]


def run(say: Say, stops: Stops, site: str | None = None) -> tuple[Findings, Latencies]:
    """Runs the whole demo; when it returns or raises, nothing of it is left.

    Args:
        say: Is told about the progress, a line at a time.
        stops: Says what signals may interrupt.
        site: Where the models are served; None: on this machine.

    Returns:
        What was found, and the latencies of the surrogate's requests.

    Raises:
        ConfigError: scikit-learn is not installed, or there is no such site.
        HpcserveError: Something did not work at all.
        Stopped: A signal came.
    """

    def tell(line: str) -> None:
        stops.check()
        say(line)

    with stops.work():
        images, labels = held_out()
    with demo_home.moved_in(site) as home:
        with stops.work():
            tell("training a classifier of handwritten digits on the first half of its data set")
            train(home / "digits")
            tell("fitting a surrogate, a multi-layer perceptron, to a solver of damped oscillators")
            fit(home / "surrogate")
        with _daemon(home, say) as daemon:
            with stops.work():
                _wait_ready(daemon, tell)
            with Client(timeout_s=ANSWER_S) as client, stops.work():
                _serve(client, home, tell)
            with Client(timeout_s=ANSWER_S) as client, stops.work():
                digits = _digits(client, images, labels, tell)
            with Callers(CLIENTS, timeout_s=ANSWER_S) as callers, stops.work():
                surrogate, latencies = demo_surrogate.measure(callers, tell)
                stops.check()
        with stops.work():
            surrogate = msgspec.structs.replace(surrogate, plot=picture(latencies, home / "tmp", tell))
            stops.check()
        left = {"left_running": len(demo_home.processes_of(home)), "left_queued": demo_home.jobs_of(home)}
        return Findings(**digits, surrogate=surrogate, **left), latencies


@contextmanager
def _daemon(home: Path, say: Say) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(str(home / "demo.toml"), tied=True)
    try:
        yield daemon
        say("taking the daemon down")
    finally:
        daemon.stop()
        daemon.wait(END_S)
        demo_home.wait_gone(home)


def _wait_ready(daemon: DaemonProcess, say: Say) -> None:
    began = time.monotonic()
    if daemon.wait_ready() is None:
        raise ServiceUnavailable("the demo's daemon ended before it was ready")
    say(f"the daemon is ready after {time.monotonic() - began:.1f} s")


def _serve(client: Client, home: Path, say: Say) -> None:
    deployed = []
    for directory, replicas in ((home / "digits", 2), (example("pi"), 1), (home / "surrogate", 1)):
        published = client.call("publish", Publish(path=str(directory)), Published, timeout_s=SETUP_S)
        say(f"published {published.name}@{published.version[:12]}, deploying {replicas} of it")
        wanted = Deploy(servable=f"{published.name}@{published.version}", replicas=replicas)
        deployed.append(client.call("deploy", wanted, Deployed, timeout_s=SETUP_S))
    say("deploying another one of it, without batches")
    one_by_one = msgspec.structs.replace(wanted, endpoint=demo_surrogate.OFF, max_batch_size=1)
    deployed.append(client.call("deploy", one_by_one, Deployed, timeout_s=SETUP_S))
    for each in deployed:
        wait_ready(client, each, timeout_s=SETUP_S)


class _OfDigits(TypedDict):
    """What is found with digits and pi."""

    digits: Digits
    pi: Pi
    latency_ms: Latency
    batch: Batch
    requests_per_s: float
    recovery: Recovery


def _digits(client: Client, images: Array, labels: Array, say: Say) -> _OfDigits:
    say(f"calling digits {SYNC_REQUESTS} times, one call after the other")
    latency = _one_by_one(client, images)
    say(f"calling digits {MAPPED_REQUESTS} times, {IN_FLIGHT} calls at once")
    requests_per_s = _mapped(client, images)
    say(f"calling digits once, with {len(images)} images")
    batch = _together(client, images, labels)
    say(f"asking for {PI_DIGITS:,} digits of pi and {len(images)} digits, and killing the broker meanwhile")
    recovery, labelled, pi = _with_a_death(client, images)
    say("checking pi by another formula")
    right = sum(labelled.get(index) == label for index, label in enumerate(labels.tolist()))
    return {
        "digits": Digits(accuracy=right / len(labels), images=len(labels)),
        "pi": pi,
        "latency_ms": latency,
        "batch": batch,
        "requests_per_s": requests_per_s,
        "recovery": recovery,
    }


def _one_by_one(client: Client, images: Array) -> Latency:
    times = []
    for index in range(SYNC_REQUESTS):
        image = images[index % len(images)][None]
        began = time.perf_counter()
        client.infer("digits", image)
        times.append((time.perf_counter() - began) * 1000)
    p50, p99 = np.percentile(times, [50, 99]).tolist()
    return Latency(p50=p50, p99=p99, requests=len(times))


def _mapped(client: Client, images: Array) -> float:
    each = itertools.islice(itertools.cycle(image[None] for image in images), MAPPED_REQUESTS)
    began = time.perf_counter()
    count = sum(1 for _ in client.map("digits", each, in_flight=IN_FLIGHT))
    return count / (time.perf_counter() - began)


def _together(client: Client, images: Array, labels: Array) -> Batch:
    began = time.perf_counter()
    found = client.infer("digits", images)["label"]
    took_s = time.perf_counter() - began
    return Batch(accuracy=float(np.mean(found == labels)), images=len(images), images_per_s=len(images) / took_s)


# --- the broker's death -------------------------------------------------------------------------------


def _with_a_death(client: Client, images: Array) -> tuple[Recovery, dict[int, int], Pi]:
    """One request for each image; with half of them made, the broker is killed, and the other half is made."""
    before = client.call("status", AskStatus(), Status)
    answered_s: dict[int, float] = {}
    pi = client.submit("pi", np.asarray(PI_DIGITS))
    futures: list[Future[Outputs]] = []
    half = len(images) // 2
    in_flight, killed_s = 0, 0.0
    for index, image in enumerate(images):
        if index == half:
            in_flight = sum(not future.done() for future in (*futures, pi))
            killed_s = time.monotonic()
            os.kill(before.processes["broker"], signal.SIGKILL)
        future = client.submit("digits", image[None])
        future.add_done_callback(partial(_note_time, answered_s, index))
        futures.append(future)
    wait([*futures, pi], timeout=ANSWER_S)
    after = client.call("status", AskStatus(), Status)
    labels, errors = _labels(futures)
    text, pi_errors = _pi_text(pi)
    late = [at_s for index, at_s in answered_s.items() if index >= half]
    recovery = Recovery(
        killed="broker",
        in_flight=in_flight,
        submitted=len(futures) + 1,
        answered=len(labels) + (not pi_errors),
        recovered_s=min(late, default=float("inf")) - killed_s,
        epochs=(before.epoch, after.epoch),
        errors=(*errors, *pi_errors),
    )
    return recovery, labels, Pi(correct=is_pi(text, PI_DIGITS), ndigits=PI_DIGITS)


def _note_time(answered_s: dict[int, float], index: int, _future: Future[Outputs]) -> None:
    answered_s[index] = time.monotonic()


def _labels(futures: list[Future[Outputs]]) -> tuple[dict[int, int], list[str]]:
    labels, errors = {}, []
    for index, future in enumerate(futures):
        outcome = _outcome(future)
        if isinstance(outcome, str):
            errors.append(outcome)
        else:
            labels[index] = int(outcome["label"][0])
    return labels, errors


def _pi_text(future: Future[Outputs]) -> tuple[str, list[str]]:
    outcome = _outcome(future)
    if isinstance(outcome, str):
        return "", [outcome]
    return outcome["digits"].item().decode(), []


def _outcome(future: Future[Outputs]) -> Outputs | str:
    """The answer, or in words why there is none."""
    if not future.done():
        return f"no answer after {ANSWER_S:g} s"
    error = future.exception()
    if error is None:
        return future.result()
    return error.message if isinstance(error, HpcserveError) else repr(error)
