"""``hpcserve site check`` on a stand-in for PBS: what it is told, and the job of one minute, which really runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from hpcserve.cli.main import main
from hpcserve.cluster import site_pilot
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.plugins import open_scheduler
from hpcserve.cluster.script import job_script
from hpcserve.cluster.site_host import Listeners
from hpcserve.cluster.site_pilot import Look, houses, modest, reaches, try_pilot
from hpcserve.cluster.site_questions import of_a_home
from hpcserve.config import Site, home, read_site
from tests.integration.pbs.conftest import NewServer
from tests.integration.pbs.server import PbsServer
from tests.unit.cluster.pilot_jobs import made_up


@pytest.fixture
def lab(pbs: PbsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site file on the stand-in. Its daemon could only listen where this host alone reaches it."""
    monkeypatch.setenv("PATH", pbs.path)
    place = home() / "sites" / "lab.toml"
    place.parent.mkdir(mode=0o700, parents=True)
    (tmp_path / "shared").mkdir(mode=0o700)
    place.write_text(
        f'base = "pbs"\nshared_dir = "{tmp_path}/shared"\n[network]\nhost = "127.0.0.1"\n[scheduler]\npoll_s = 0.5\n'
    )
    return place


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = (re.fullmatch(r"(\w+) +([^:]+): (.*)", line) for line in capsys.readouterr().out.splitlines())
    return {f"{line[1]} {line[2]}": line[3] for line in lines if line is not None}


def tried(
    site: Site, look: Look | None = None, judged: Callable[..., Iterable[Finding]] = reaches
) -> dict[str, Finding]:
    """What comes of the job of one minute, which is to reach an address of this host if to nothing else."""

    async def try_it() -> list[Finding]:
        scheduler = open_scheduler(modest(site))
        try:
            looked = look or Look([listeners.open("127.0.0.1")])
            return await try_pilot(modest(site), scheduler, looked, timeout_s=60.0, judged=judged)
        finally:
            await scheduler.close()

    listeners = Listeners()
    try:
        return {finding.subject: finding for finding in asyncio.run(try_it())}
    finally:
        listeners.close()


@pytest.mark.usefixtures("lab")
def test_the_server_and_its_queue_are_told_of_and_nothing_is_submitted(
    pbs: PbsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["site", "check", "lab", "--no-submit"])
    found = told(capsys)
    assert found["ok queue"].startswith("the scheduler told of your jobs within ")
    assert {"ok scheduler", "ok commands", "ok PBS", "ok history", "ok queue"} <= set(found)
    assert pbs.asked("qsub") == []


@pytest.mark.parametrize("hosts", [("",), ("node1", "node2")])
def test_a_daemon_may_listen_for_its_own_host_alone_only_where_all_nodes_are_that(
    hosts: tuple[str, ...],
    new_pbs: NewServer,
    lab: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", new_pbs(hosts=tuple(filter(None, hosts))).path)
    assert main(["site", "check", lab.stem, "--no-submit"]) == (len(hosts) > 1)
    found = told(capsys)
    main(["doctor", "--site", lab.stem])
    for each in (found, told(capsys)):
        if len(hosts) > 1:
            assert "which other hosts cannot reach; name the interface that" in each["failed interface"]
        else:
            assert each["ok interface"].startswith("127.0.0.1: all nodes of the scheduler are this host")


@pytest.mark.usefixtures("lab")
def test_a_server_that_is_down_fails_the_check(pbs: PbsServer, capsys: pytest.CaptureFixture[str]) -> None:
    pbs.fault("all", "down")
    assert main(["site", "check", "lab", "--no-submit"]) == 1
    found = told(capsys)
    assert {"failed PBS", "failed queue"} <= set(found)
    assert "whether there are others is not known" in found["skipped interface"], "nobody mends a file that is right"


@pytest.mark.usefixtures("lab")
def test_doctor_asks_the_server_as_the_daemon_would(pbs: PbsServer, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--site", "lab"])
    assert "ok queue" in told(capsys)
    pbs.fault("all", "down")
    main(["doctor", "--site", "lab"])
    assert "PBS" in told(capsys)["failed queue"]


@pytest.mark.usefixtures("lab")
def test_history_that_is_off_is_told(pbs: PbsServer, capsys: pytest.CaptureFixture[str]) -> None:
    pbs.set(history=False)
    main(["site", "check", "lab", "--no-submit"])
    assert told(capsys)["ok history"].startswith("off: ")


@pytest.mark.parametrize(
    ("hosts", "told_of", "runs"),
    [
        ((), "failed nodes: pilots.nodes: expected ≤ 1, got 2", False),
        (("n1", "n2"), "ok nodes: 2 of 2 could run a part of a pilot", True),
    ],
)
def test_pilots_of_more_nodes_than_there_are_hosts_fail_the_check_as_they_would_never_run(
    *,
    hosts: tuple[str, ...],
    told_of: str,
    runs: bool,
    new_pbs: NewServer,
    lab: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pbs = new_pbs(hosts=hosts)
    monkeypatch.setenv("PATH", pbs.path)
    lab.write_text(f'{lab.read_text()}[pilots]\nnodes = 2\ncpus_per_node = 1\nlauncher = "mpiexec"\n')
    main(["site", "check", "lab", "--no-submit"])
    subject = told_of.partition(": ")[0]
    assert f"{subject}: {told(capsys).get(subject)}".startswith(told_of)
    script = job_script(read_site("lab"), made_up(), "x")
    job = pbs.submit("\n".join(line for line in script.splitlines() if line.startswith("#PBS -l")))
    assert pbs.told(job)["comment"].startswith("Job run" if runs else "Can Never Run")


@pytest.mark.usefixtures("lab")
def test_the_job_of_one_minute_runs_and_leaves_nothing(pbs: PbsServer) -> None:
    site = read_site("lab")
    found = tried(site)
    assert {subject: each.outcome for subject, each in found.items()} == {
        "pilot": "ok",
        "python": "ok",
        "network": "ok",
    }
    assert list(site.shared_dir.iterdir()) == []
    (name,) = pbs.jobs()
    pbs.reaches(name, "F")


def test_a_job_that_does_not_start_hpcserve_is_told_by_its_own_words(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_pilot, "LATE_S", 0.5)  # its files are seen at once here
    python = lab.with_name("python")
    python.write_text("#!/bin/sh\necho No module named hpcserve\nexit 1\n")
    python.chmod(0o755)
    lab.write_text(f'{lab.read_text()}[pilots]\npython = "{python}"\n')
    (failed,) = tried(read_site("lab")).values()
    assert failed.outcome == "failed"
    assert failed.told.endswith("No module named hpcserve; compute nodes need pilots.python with hpcserve in it")


def test_a_node_that_does_not_find_pbs_can_have_no_daemon(pbs: PbsServer, lab: Path) -> None:
    file = lab.read_text()
    lab.write_text(f'{file}[pilots]\nsetup = ["export PATH=/usr/bin:/bin"]\n')
    site = read_site("lab")
    failed = tried(site, of_a_home(site), houses)["commands"]
    assert failed.outcome == "failed"
    assert "qsub, qstat, qselect, qdel not found in PATH (/usr/bin:/bin); have pilots.setup make them" in failed.told
    lab.write_text(f'{file}[pilots]\nsetup = ["export PATH={pbs.path}"]\n')
    site = read_site("lab")
    assert "commands" not in tried(site, of_a_home(site), houses)


def test_what_a_daemons_own_job_may_not_have_is_told(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write_text(f'{lab.read_text()}[daemon]\nplacement = "job"\ndirectives = ["-N foo"]\n')
    assert main(["site", "check", "lab", "--no-submit"]) == 1
    assert told(capsys)["failed scheduler"].startswith("daemon.directives: expected no -N, ")
