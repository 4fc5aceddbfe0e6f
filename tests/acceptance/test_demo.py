"""``hpcserve demo`` as a newcomer types it, and as it ends when it is not let finish."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from hpcserve.cli.demo_run import Batch, Digits, Findings, Latency, Pi, Recovery
from hpcserve.cli.demo_surrogate import Side, Surrogate, SurrogateError
from tests.acceptance.newcomer import HPCSERVE, until

STAGES = (
    "training a classifier",
    "fitting a surrogate",
    "the daemon is ready",
    "published digits",
    "published pi",
    "calling digits 500 times",
    "and killing the broker meanwhile",
    "calling the surrogate from 32 clients",
    "taking the daemon down",
)
BRIEF = """
import sys
from hpcserve.cli import demo_surrogate
from hpcserve.cli.main import main

demo_surrogate.TURN_S = demo_surrogate.WARM_UP_S = 0.1
sys.exit(main(["demo"]))
"""
"""For what does not look at how the clients of the surrogate fare: seven seconds of all processors less."""
STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


class Demo:
    """A demo whose directories, and with them its processes, can be told from all others.

    ``depth`` makes the path of its temporary directory long: then its sockets are elsewhere.
    """

    def __init__(self, place: Path, depth: int = 1) -> None:
        self.place = place
        self._temporary = place / ("tmp" * depth)
        self._sockets = place / "run"
        for each in (self._temporary, self._sockets):
            each.mkdir(mode=0o700)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HPCSERVE_", "XDG_"))},
            "TMPDIR": str(self._temporary),
            "XDG_RUNTIME_DIR": str(self._sockets),
            "HOME": str(place),
        }

    def start(
        self, *arguments: str, program: tuple[str, ...] = (*HPCSERVE, "demo"), **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*program, *arguments],
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def processes(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.place) and process.status() != "zombie":
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def nothing_left(self) -> bool:
        return self.processes() == []

    def files(self) -> list[Path]:
        """What it has made outside its own directory, that one included; libraries may have made others."""
        return [*self._temporary.glob("hpcserve*"), *self._sockets.iterdir()]


def start_for(demo: Demo, stage: str) -> subprocess.Popen[str]:
    """A demo that is to be ended in this stage: what comes before the last one is brief."""
    return demo.start(program=(sys.executable, "-c", BRIEF)) if stage == STAGES[-1] else demo.start()


def reach(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stderr is not None
    reached = any(stage in line for line in process.stderr)
    assert reached, f"the demo ended with {process.wait()} before {stage!r}"


@pytest.fixture(params=[1])
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    # Not pytest's own: its long name would put the sockets elsewhere.
    with tempfile.TemporaryDirectory(prefix="demo-test-", ignore_cleanup_errors=True) as place:
        found = Demo(Path(place), request.param)
        yield found
        for pid in found.processes():
            os.kill(pid, signal.SIGKILL)
        until(found.nothing_left)


def test_the_demo_prints_one_object_and_leaves_nothing(demo: Demo) -> None:
    process = demo.start("--json")
    said, progress = process.communicate(timeout=280)
    assert process.returncode == 0, progress
    found = json.loads(said)
    assert said.count("\n") == 1
    assert 0.96 < found["digits"]["accuracy"] < 1.0
    assert found["digits"]["images"] == 899
    assert found["batch"]["accuracy"] == found["digits"]["accuracy"]
    assert found["pi"] == {"correct": True, "ndigits": 100_000}
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert found["requests_per_s"] > 0
    surrogate = found["surrogate"]
    assert surrogate["clients"] == 32
    for side in (surrogate["batching_on"], surrogate["batching_off"]):
        assert side["requests"] > 32
        assert side["requests_per_s"] > 0
        assert 0 < side["p50_ms"] <= side["p99_ms"]
    error = surrogate["error"]
    assert error["answers"] == surrogate["batching_on"]["requests"] + surrogate["batching_off"]["requests"]
    assert 0 < error["rms"] < 0.01
    assert error["rms"] < error["max"] < 0.5
    assert surrogate["plot"] == str(demo.place / ".cache" / "hpcserve" / "demo-latency.png")
    assert Path(surrogate["plot"]).read_bytes().startswith(b"\x89PNG")
    recovery = found["recovery"]
    assert recovery["killed"] == "broker"
    assert recovery["in_flight"] > 0
    assert recovery["submitted"] == recovery["answered"] == 900
    assert 0 < recovery["recovered_s"] < 30
    assert recovery["epochs"][0] < recovery["epochs"][1]
    assert found["left_running"] == 0
    assert demo.nothing_left()
    assert demo.files() == []
    assert {path.name for path in demo.place.iterdir()} == {"tmp", "run", ".cache"}
    assert len(list((demo.place / ".cache").rglob("*.*"))) == 1


def test_the_demo_prints_a_table_and_what_to_try_next(demo: Demo) -> None:
    process = demo.start(program=(sys.executable, "-c", BRIEF))
    said, _ = process.communicate(timeout=280)
    assert process.returncode == 0
    for words in ("accuracy", "96.9%", "p50", "p99", "requests/s", "broker killed", "900 of 900 answered", "correct"):
        assert words in said
    for words in ("surrogate: error", "RMS 0.00", "surrogate: batching off", "32 clients", "█", "demo-latency.png"):
        assert words in said
    assert "hpcserve up --detach" in said
    assert "\x1b" not in said


def test_the_demo_on_a_terminal_that_knows_ascii_only_and_without_matplotlib(demo: Demo) -> None:
    program = f"import sys; sys.modules['matplotlib'] = None\n{BRIEF}"
    process = demo.start(program=(sys.executable, "-c", program), PYTHONIOENCODING="ascii")
    said, progress = process.communicate(timeout=280)
    assert process.returncode == 0, progress
    assert said.isascii()
    assert "##" in said
    assert "picture" not in said
    assert progress.count("for a picture of the latencies: pip install 'hpcserve[plot]'") == 1
    assert not (demo.place / ".cache").exists()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        *zip(STAGES, itertools.cycle((signal.SIGINT, signal.SIGTERM))),
        *zip(STAGES, itertools.repeat(signal.SIGKILL)),
    ],
)
def test_a_demo_that_is_ended_leaves_no_process(demo: Demo, stage: str, number: signal.Signals) -> None:
    with start_for(demo, stage) as process:
        reach(process, stage)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == STOPS[number]
        if number != signal.SIGKILL:
            assert demo.nothing_left()
    assert "Traceback" not in said
    assert "error" not in said
    until(demo.nothing_left)
    if number != signal.SIGKILL:
        assert said.count("stopping…\n") == 1
        assert demo.files() == []


SHORT_PATH = 1, (signal.SIGINT,) * 3
LONG_PATH = 30, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize(
    ("stage", "demo", "numbers"),
    [(stage, *way) for stage, way in zip(STAGES, itertools.cycle((SHORT_PATH, LONG_PATH)))],
    indirect=["demo"],
)
def test_a_demo_that_is_ended_again_and_again_leaves_nothing(
    demo: Demo, stage: str, numbers: tuple[signal.Signals, ...]
) -> None:
    with start_for(demo, stage) as process:
        reach(process, stage)
        for number in numbers:
            process.send_signal(number)
        while process.poll() is None:
            process.send_signal(numbers[-1])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        left = demo.processes()
        assert process.stderr is not None
        said = process.stderr.read()
        # Of signals that come together, the system does not say which was the first.
        assert process.returncode in {128 + number for number in numbers}
    assert left == []
    assert demo.files() == []
    assert said.splitlines().count("stopping…") == 1
    assert "Traceback" not in said


def test_without_scikit_learn_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['sklearn'] = None; from hpcserve.cli.main import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: the example digits needs scikit-learn")
    assert "pip install 'hpcserve[sklearn]'" in done.stderr


GOOD = Findings(
    digits=Digits(accuracy=0.97, images=899),
    pi=Pi(correct=True, ndigits=100),
    surrogate=Surrogate(
        clients=32,
        batching_on=Side(requests=10, requests_per_s=2.0, p50_ms=1.0, p99_ms=2.0),
        batching_off=Side(requests=10, requests_per_s=1.0, p50_ms=1.0, p99_ms=2.0),
        error=SurrogateError(rms=0.004, max=0.05, answers=20),
    ),
    latency_ms=Latency(p50=1.0, p99=2.0, requests=10),
    batch=Batch(accuracy=0.97, images=899, images_per_s=1.0),
    requests_per_s=1.0,
    recovery=Recovery(
        killed="broker", in_flight=5, submitted=10, answered=10, recovered_s=0.1, epochs=(1, 2), errors=()
    ),
    left_running=0,
)
"""A demo in which all went well."""


def altered(**changes: object) -> Findings:
    """``GOOD``, but for some fields; ``recovery__answered`` is the field ``answered`` of ``recovery``."""
    built = msgspec.to_builtins(GOOD)
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            built[part][field] = value
        else:
            built[part] = value
    return msgspec.convert(built, Findings)


def test_a_good_demo_has_nothing_wrong() -> None:
    assert GOOD.wrong() == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"digits__accuracy": 0.89, "batch__accuracy": 0.89}, "accuracy 0.890 is below 0.9"),
        ({"batch__accuracy": 0.95}, "accuracy of the batch, 0.950, differs"),
        ({"pi__correct": False}, "the digits of pi are wrong"),
        (
            {"surrogate__error": {"rms": 0.02, "max": 0.05, "answers": 20}},
            "the surrogate's error, 0.0200, is above 0.01",
        ),
        ({"recovery__answered": 9, "recovery__errors": ["why"]}, "1 requests were lost .*, the first because: why"),
        ({"recovery__in_flight": 0}, "no request was in flight"),
        ({"recovery__epochs": [1, 1]}, "no new broker took over"),
        ({"left_running": 2}, "2 processes are still running"),
    ],
)
def test_what_went_wrong_is_told(changes: dict[str, object], told: str) -> None:
    (said,) = altered(**changes).wrong()
    assert re.search(told, said)
