"""``hpcserve site``: what it lists, what it renders, what it finds out, and how it ends."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from hpcserve.cli.checks import tell
from hpcserve.cli.main import main
from hpcserve.cluster.finding import Finding
from hpcserve.config import home, load_site
from hpcserve.daemon.controller.job import pilot_job, service_tag
from hpcserve.daemon.preparation import prepare
from hpcserve.errors import ConfigError
from hpcserve.types import PilotId


def own_site(name: str, text: str) -> None:
    """Writes a site file of the user's."""
    place = home() / "sites" / f"{name}.toml"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.write_text(text)


def test_the_list_has_all_sites_and_what_they_lack(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", 'base = "slurm"\n[network]\nhost = "lo"\n')
    assert main(["site", "list"]) == 0
    rows = {line[3:].split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == [
        *("aurora", "delta", "facility", "frontier", "lab", "local", "pbs", "perlmutter", "polaris", "slurm")
    ]
    assert rows["local"].startswith("*  local")
    assert re.search(r" lab +slurm +/.*/sites/lab.toml$", rows["lab"])
    assert rows["frontier"].endswith("pilots.account: frontier wants one")
    assert "SCRATCH is not set here" in rows["perlmutter"]


def test_a_site_is_shown_with_its_comments_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", '# Source: the manual.\nbase = "nowhere"\n')
    assert main(["site", "show", "lab"]) == 0
    assert capsys.readouterr().out == f'# {home()}/sites/lab.toml\n# Source: the manual.\nbase = "nowhere"\n'
    assert main(["site", "show", "frontier"]) == 0
    assert capsys.readouterr().out.startswith("# site_configs/frontier.toml\n")
    assert main(["site", "show", "nope"]) == 2


def test_what_is_rendered_is_what_would_be_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", 'base = "slurm"\n[network]\nhost = "lo"\n[pilots]\npython = "/opt/python"\nqos = "debug"\n')
    assert main(["site", "render", "lab"]) == 0
    script = capsys.readouterr().out
    site = load_site("lab")
    assert f"#SBATCH --job-name=hpcserve-{service_tag(site.shared_dir)}-p0\n" in script
    assert "#SBATCH --qos=debug\n" in script
    job = pilot_job(site, PilotId("p0"), site.shared_dir / "service.json")
    assert f"\nexec /opt/python -P -m hpcserve.pilot --record {job.directory}/service.json " in script


def test_what_a_site_lacks_is_said_beside_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "render", "polaris"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/bin/bash")
    assert printed.err.startswith("it would not be submitted yet: ")
    assert "pilots.account" in printed.err


def test_a_finding_is_one_line_whatever_a_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Finding("PBS", "failed", "qstat -B: Connection refused\nqstat: cannot connect\n  ask")) == 1
    assert capsys.readouterr().out == "failed   PBS: qstat -B: Connection refused qstat: cannot connect ask\n"


def test_a_check_leaves_no_directory_that_was_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", f'base = "local"\nshared_dir = "{tmp_path}/ada/hpcserve"\n')
    before = sorted(tmp_path.iterdir())
    assert main(["site", "check", "lab"]) == 0
    assert "ok       shared_dir: " in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_a_site_without_jobs_has_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "render", "local"]) == 2
    told = "error: site 'local' has no job script, as its scheduler is 'local'\n"
    assert capsys.readouterr().err == told


def test_a_wrong_site_file_ends_the_check_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", "[pilots]\nslots = 0\n")
    assert main(["site", "check", "lab"]) == 2
    assert "sites/lab.toml: pilots.slots: expected" in capsys.readouterr().err


def test_a_check_of_the_local_site_submits_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "check", "local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "skipped  pilot: no job was submitted: see --submit"
    assert {line.split()[0] for line in lines[:-1]} == {"ok"}


def test_a_check_submits_a_job_that_comes_back_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "check", "local", "--submit", "--timeout", "60"]) == 0
    told = dict(line.removeprefix("ok").strip().split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert re.fullmatch(r"ran on \S+ and wrote to shared_dir, \d+ s after it was submitted", told["pilot"])
    assert "reaches this host" in told["network"]
    site = load_site("local")
    assert not site.shared_dir.exists()
    assert site.state_dir.stat().st_mode & 0o777 == 0o700


def test_a_job_that_cannot_start_hpcserve_is_told_by_its_own_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named hpcserve\nexit 1\n")
    python.chmod(0o755)
    own_site("lab", f'base = "local"\n[pilots]\npython = "{python}"\n')
    assert main(["site", "check", "lab", "--submit", "--timeout", "1"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("failed   pilot: it ended without a report: ")
    assert last.endswith("its log ends: No module named hpcserve; compute nodes need pilots.python with hpcserve in it")


def test_a_job_that_does_not_report_in_time_is_cancelled(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60\n")
    python.chmod(0o755)
    own_site("lab", f'base = "local"\n[scheduler]\npoll_s = 0.1\n[pilots]\npython = "{python}"\n')
    assert main(["site", "check", "lab", "--submit", "--timeout", "1"]) == 1
    assert "failed   pilot: running after 1 s, so it was cancelled" in capsys.readouterr().out
    assert (tmp_path / "pid").exists()


def test_nothing_is_submitted_where_something_is_wrong_already(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", 'base = "local"\n[network]\nhost = "nope0"\n')
    assert main(["site", "check", "lab", "--submit"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("failed   interface: network.host: 'nope0' is no interface, ")
    assert lines[-1] == "skipped  pilot: no job was submitted: first correct what failed above"


def test_a_port_that_is_in_use_is_a_failed_check(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        own_site("lab", f'base = "local"\n[network]\nfront_port = {port}\n')
        assert main(["site", "check", "lab"]) == 1
    assert f"failed   ports: port {port} of 127.0.0.1 is in use by another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("subject", "entry", "mode", "told"),
    [
        ("HPCSERVE_HOME", "", 0o777, "chmod 700"),
        ("HPCSERVE_HOME", "client.key", 0o644, "so others may read it; run: chmod 600"),
        ("state_dir", "state", 0o750, "has mode 0750, so others may enter it; run: chmod 700"),
        ("state_dir", "state/keys/service.key", 0o644, "so others may read it; run: chmod 600"),
        ("state_dir", "state/authorized_keys", 0o666, "so others may write it; run: chmod 600"),
        ("shared_dir", "shared", 0o777, "has mode 0777, so others may write to it; run: chmod 700"),
        ("shared_dir", "shared/logs", 0o777, "so others may write to it; run: chmod 700"),
        ("shared_dir", "shared/servables", 0o775, "so others may write to it; run: chmod 700"),
        ("shared_dir", "shared/servables/abc", 0o777, "so others may write to it; run: chmod 700"),
        ("shared_dir", "shared/enrolments", 0o755, "so others may enter it; run: chmod 700"),
    ],
)
def test_what_a_daemon_would_refuse_is_a_failed_check(
    capsys: pytest.CaptureFixture[str], *, subject: str, entry: str, mode: int, told: str
) -> None:
    site = load_site("local")
    prepare(site)
    (site.shared_dir / "servables" / "abc").mkdir()
    assert main(["site", "check", "local"]) == 0
    assert capsys.readouterr().out.count("failed") == 0
    # Its directories are state and shared, both at one place.
    wide = site.state_dir.parent / entry if entry.startswith("s") else home() / entry
    wide.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        prepare(site)
    assert main(["site", "check", "local"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"failed   {subject}: {refused.value}" in lines
    assert told in str(refused.value)


def test_a_check_makes_neither_keys_nor_the_places_of_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    site = load_site("local")
    assert main(["site", "check", "local"]) == 0
    assert f"ok       state_dir: {site.state_dir} will be made" in capsys.readouterr().out
    assert not site.shared_dir.exists()
    assert list(site.state_dir.glob("keys")) == list(home().glob("*.key")) == []


SQUEUE = '#!/bin/sh\ncase "$*" in *--version*) echo slurm 22.05.8; exit;; esac\n'


@pytest.mark.parametrize(
    ("squeue", "told"),
    [
        ("", r"ok       queue: the scheduler told of your jobs within \d\.\d s"),
        ("echo Welcome to the cluster", r"failed   queue: cannot read the answer of squeue: .*Welcome to the cluster"),
        ("exec sleep 60", r"failed   queue: squeue .*did not answer within 1 s .*Raise scheduler\.timeout_s"),
    ],
)
def test_the_daemons_own_question_is_a_part_of_the_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, squeue: str, told: str
) -> None:
    (tmp_path / "squeue").write_text(f"{SQUEUE}{squeue}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    own_site("lab", 'base = "slurm"\n[network]\nhost = "lo"\n[scheduler]\ntransport = "commands"\ntimeout_s = 1\n')
    main(["site", "check", "lab", "--no-submit"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " queue: " in line]
    assert re.match(told, line)


def test_what_a_site_requires_is_a_failed_check(capsys: pytest.CaptureFixture[str]) -> None:
    own_site("lab", 'base = "local"\nrequired = ["pilots.account"]\n')
    assert main(["site", "check", "lab"]) == 2
    told, *others = capsys.readouterr().out.splitlines()
    assert len(others) > 4
    assert re.match(r"failed   site file: /.*/sites/lab.toml: pilots.account: lab wants one; set it in /", told)
