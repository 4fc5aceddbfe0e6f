"""A site's names become a scheduler and a launcher, or an error that lists what there is."""

import asyncio
import os
import pwd
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.local import LocalScheduler
from hpcserve.cluster.pbs import PbsScheduler
from hpcserve.cluster.plugins import check, open_launcher, open_scheduler
from hpcserve.cluster.seam import LAUNCHER_KILL_S, Estimator
from hpcserve.cluster.slurm import SlurmScheduler
from hpcserve.config import Scheduler, Site, read_site
from hpcserve.errors import ConfigError
from hpcserve.wire.launch import MpiRules
from tests.unit.cluster.pbs_stage import TAG, FakePbs, pilot_job


def site(tmp_path: Path, kind: str) -> Site:
    return Site(name="s", state_dir=tmp_path / "state", shared_dir=tmp_path / "shared", scheduler=Scheduler(kind=kind))


def test_local_is_built_in_and_keeps_its_files_in_the_state_directory(tmp_path: Path) -> None:
    assert isinstance(open_scheduler(site(tmp_path, "local")), LocalScheduler)
    assert (tmp_path / "state" / "local-jobs").is_dir()


def test_an_agent_is_given_the_time_to_have_ranks_killed_by_their_launcher(tmp_path: Path) -> None:
    given = site(tmp_path, "local")
    scheduler = open_scheduler(given)
    assert isinstance(scheduler, LocalScheduler)
    assert scheduler.cancel_grace_s > given.pilots.stop_grace_s + LAUNCHER_KILL_S


def test_slurm_is_built_in_and_asks_nothing_before_it_is_used(tmp_path: Path) -> None:
    assert isinstance(open_scheduler(site(tmp_path, "slurm")), SlurmScheduler)


def test_pbs_is_built_in_and_makes_its_jobs_of_the_sites_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakePbs(tmp_path)
    fake.says("qsub", "12.pbs\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    scheduler = open_scheduler(read_site("pbs"))
    assert isinstance(scheduler, PbsScheduler)
    assert not isinstance(scheduler, Estimator)
    assert asyncio.run(scheduler.submit(pilot_job(tmp_path))) == "12.pbs"
    assert f"#PBS -N hpcserve-{TAG}-1\n" in (tmp_path / "script").read_text()
    fake.says("qselect", "")
    assert asyncio.run(scheduler.find(TAG)) == {}
    assert fake.asked[-1] == f"qselect -u {pwd.getpwuid(os.getuid()).pw_name}"


def test_an_unknown_scheduler_names_the_field_and_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.kind: nothing is called 'slrm'; known: .*local"):
        open_scheduler(site(tmp_path, "slrm"))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Scheduler(kind="slrm"), r"scheduler\.kind: nothing is called 'slrm'"),
        (
            Scheduler(kind="slurm", transport="pyslurm"),
            r'"pyslurm" cannot be used here: .*; set it to "auto" or "commands"',
        ),
        (Scheduler(kind="slurm", transport="auto"), ""),
        (Scheduler(kind="slurm", transport="commands"), ""),
        (Scheduler(kind="local", transport="pyslurm"), ""),
    ],
)
def test_a_scheduler_that_cannot_be_used_as_the_site_says_is_told_of_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: Scheduler, message: str
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "nowhere" / "slurm.conf"))
    given = Site(name="s", state_dir=tmp_path, shared_dir=tmp_path, scheduler=scheduler)
    if not message:
        asyncio.run(check(given))
        return
    with pytest.raises(ConfigError, match=message):
        asyncio.run(check(given))


def test_process_launches_plainly_and_others_are_refused() -> None:
    assert open_launcher("process", MpiRules()).command(("python", "-m", "x"), "here") == ("python", "-m", "x")
    assert open_launcher("srun", MpiRules()).command(("python", "-m", "x"), "there")[-3:] == ("python", "-m", "x")
    with pytest.raises(ConfigError, match=r"pilots\.launcher: nothing is called 'srn'; known: .*process"):
        open_launcher("srn", MpiRules())


def test_an_installed_package_brings_a_scheduler_and_a_broken_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "thirdparty-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[hpcserve.schedulers]\nodd = thirdparty_scheduler:make\nbroken = thirdparty_scheduler:missing\n"
    )
    (tmp_path / "thirdparty_scheduler.py").write_text("def make(site):\n    return ('made for', site.name)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made: object = open_scheduler(site(tmp_path, "odd"))
    assert made == ("made for", "s")
    with pytest.raises(ConfigError, match=r"'broken' \(thirdparty_scheduler:missing\) does not load"):
        open_scheduler(site(tmp_path, "broken"))


def test_records_survive_a_round_trip_of_unknown_fields() -> None:
    """A later version may add fields to a job's record; an earlier one, rolled back to, still reads it."""
    from hpcserve.cluster.local import Record

    text = b'{"pilot":"p","pid":1,"start_time":"","boot_id":"","started_s":0,"walltime_s":1,"added_later":1}'
    assert msgspec.json.decode(text, type=Record).pilot == "p"
