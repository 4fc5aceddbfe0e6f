"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.errors import ConfigError


def site_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "polaris.toml"
    path.write_text(text)
    return str(path)


def test_the_default_site_is_local_and_lies_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    site = config.load_site()
    assert (site.name, site.mode, site.auth, site.scheduler.kind) == ("local", "personal", "keys", "local")
    assert site.state_dir == tmp_path / "sites" / "local" / "state"
    assert site.shared_dir == tmp_path / "sites" / "local" / "shared"


def test_the_option_comes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.site_named(None) == "local"
    monkeypatch.setenv("HPCSERVE_SITE", "theirs")
    assert config.site_named(None) == "theirs"
    assert config.site_named("mine") == "mine"
    monkeypatch.setenv("HPCSERVE_SERVICE", "far")
    assert (config.service_named(None), config.service_named("near")) == ("far", "near")


def test_a_users_own_site_comes_before_the_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    own = tmp_path / "sites" / "local.toml"
    own.parent.mkdir()
    own.write_text("[pilots]\nslots = 3\n")
    assert config.load_site("local").pilots.slots == 3


def test_a_site_file_is_named_after_its_file_and_its_paths_may_use_the_home(tmp_path: Path) -> None:
    site = config.load_site(site_file(tmp_path, 'state_dir = "~/x"\n'))
    assert site.name == "polaris"
    assert site.state_dir == Path.home() / "x"


@pytest.mark.parametrize("variables", [{"HOME": ""}, {"HOME": "", "HPCSERVE_HOME": ""}, {"HPCSERVE_HOME": ""}, {}])
def test_without_a_home_in_the_environment_the_password_database_knows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("HPCSERVE_HOME")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    theirs = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert config.home() == theirs / ".hpcserve"
    assert config.load_site(site_file(tmp_path, 'state_dir = "~/x"\n')).state_dir == theirs / "x"
    monkeypatch.setenv("HPCSERVE_HOME", "~")
    assert config.home() == theirs


def test_who_is_nowhere_at_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HPCSERVE_HOME")
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    with pytest.raises(ConfigError, match="HOME is not set, and uid 4000000000 has no home; set HPCSERVE_HOME"):
        config.home()
    with pytest.raises(ConfigError, match="cannot find ~nobody-here/x: no user of this machine has this name"):
        config.expanded("~nobody-here/x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pilots]\nslots = 0\n", r"polaris.toml: pilots.slots: expected .* >= 1, got 0$"),
        ("[pilots]\nwalltime_s = -1.0\n", r"polaris.toml: pilots.walltime_s: expected .* > 0"),
        ('[pilots]\nslots = "two"\n', r"polaris.toml: pilots.slots: expected `int`, got `str`"),
        ("[pilots]\nslotz = 1\n", r"polaris.toml: pilots: .*slotz"),
        ("colour = 1\n", r"polaris.toml: unknown field 'colour'; known: base, name, mode, .*staging$"),
        ('mode = "service"\n', r"polaris.toml: mode: 'service' needs containers, and containers.runtime is 'none'$"),
        (
            'mode = "service"\n[containers]\nruntime = "apptainer"\n',
            r"polaris.toml: mode: 'service' needs to know its callers: auth = \"globus\", got 'keys'$",
        ),
        (
            'mode = "service"\nauth = "globus"\ncontainers.runtime = "apptainer"\nstaging.roots = ["/data"]\n',
            r"polaris.toml: staging.roots: in mode 'service' callers name files of their own staging directory only$",
        ),
        (
            'mode = "service"\nauth = "globus"\n[containers]\nruntime = "apptainer"\n',
            r"polaris.toml: staging.quota_bytes: mode 'service' needs a limit on the files of each caller, got 0",
        ),
        (
            'mode = "service"\nauth = "globus"\n[containers]\nruntime = "apptainer"\n[pilots]\nmps = true\n',
            r"polaris.toml: pilots.mps: with it containers share .* or containers.trust_publishers to true",
        ),
        ('[staging]\nroots = ["/data/../etc"]\n', r"staging.roots: expected a whole path without '..', got .*etc'$"),
        (
            '[[staging.collections]]\nid = "scratch"\nprefix = "/s"\nkind = "guest"\n',
            r"polaris.toml: staging.collections.0..id: expected the UUID of a collection, got 'scratch'$",
        ),
        ("[pilot]\nslots = 1\n", r"polaris.toml: unknown field 'pilot'; did you mean 'pilots'\?$"),
        ("[pilots]\nslot = 1\n", r"polaris.toml: pilots: unknown field 'slot'; did you mean 'slots'\?$"),
        ("[network]\nfront_port = 70000\n", r"polaris.toml: network.front_port: expected .* <= 65535"),
        ('[network]\nhost = "0.0.0.0"\n', r"polaris.toml: network.host: expected the address .* got '0.0.0.0'"),
        (
            '[network]\nport_range = "40000"\n',
            r"network.port_range: expected FIRST-LAST, such as 40000-40100, got '40000'$",
        ),
        ('[network]\nport_range = "9-8"\n', r"port_range: expected FIRST-LAST with the lower port first, got '9-8'$"),
        ('[network]\nport_range = "1-65536"\n', r"port_range: expected .* ports from 1 to 65535, got '1-65536'$"),
        ('[network]\nport_range = "0-9"\n', r"port_range: expected FIRST-LAST of ports from 1 to 65535, got '0-9'$"),
        ('[network]\nport_range = "700000-800000"\n', r"of ports from 1 to 65535, got '700000-800000'$"),
        ('[network]\nport_range = "8-9"\n', r"port_range: expected FIRST-LAST of at least 3 ports, got '8-9'$"),
        ('[network]\nfront_port = 9\nport_range = "5-5"\n', r"FIRST-LAST of at least 2 ports, got '5-5'"),
        (
            '[globus]\nclient_id = "11111111-2222-4333-8444-555555555555"\n',
            r"polaris.toml: globus: counts only with auth = 'globus', and auth is 'keys'; set auth, or take it out$",
        ),
        ('auth = "none"\n', r"polaris.toml: auth: expected .globus. or .keys., got 'none'$"),
        ("[pilots]\norphan_s = 3\n", r"polaris.toml: pilots.orphan_s: expected ≥ 4, got 3: agents would end"),
        (
            "[pilots]\nnodes = 2\n",
            r"polaris.toml: pilots.launcher: expected .srun. or .mpiexec. for several nodes, got .process.",
        ),
        ('[mpi]\npmi = "PMI-2"\n', r"polaris.toml: mpi.pmi: expected a name that .srun --mpi=list. lists"),
        ('[mpi]\ncommand = " "\n', r"polaris.toml: mpi.command: expected the name or path of a program"),
        ('[mpi]\nfamily = "intel"\n', r'polaris.toml: mpi.family: expected "", "mpich" or "openmpi", got .intel.$'),
        ('[mpi]\nenvironment = ["A*B"]\n', r"polaris.toml: mpi.environment: expected names of variables, or beginn"),
        ('[mpi]\nbinds = ["here"]\n', r"polaris.toml: mpi.binds: expected /SOURCE\[:/TARGET\[:ro\|rw\]\], got 'here'"),
        ("[recovery]\nrecovery_grace_s = 1.5\n", r"polaris.toml: recovery.recovery_grace_s: expected ≥ 2, got 1.5"),
        (
            "[scheduler]\npoll_s = 300\n",
            r"polaris.toml: scheduler.poll_max_s: expected ≥ 300, which is poll_s, got 120",
        ),
        (
            '[scheduler]\nkind = "slurm"\npoll_max_s = 301\n',
            r"scheduler.poll_max_s: expected ≤ 300, got 301: .* agent waits 600 s to be let in; lower it$",
        ),
        (
            '[scheduler]\nkind = "slurm"\npoll_s = 500\n',
            r"scheduler.poll_s: expected ≤ 300, got 500: .* agent waits 600 s to be let in; lower it$",
        ),
        ('[access.call]\nallow = ["ada"]\n', r"polaris.toml: access.call.allow: expected .*user:NAME.*got 'ada'$"),
        ('[access]\ncall = { deny = ["user:"] }\n', r"polaris.toml: access.call.deny: expected .*, got 'user:'$"),
        ('[access.call]\nallows = ["*"]\n', r"polaris.toml: access.call: unknown field 'allows'; did you mean 'allow'"),
        (
            '[access]\naccounts = "/x"\n',
            r"access.accounts: identities of Globus are .*; with auth = 'keys' none come",
        ),
        ('[access]\naccounts = "x"\n', r"polaris.toml: access.accounts: expected the whole path of .*, got 'x'$"),
        ('[access.see]\nallow = ["*"]\n', r"polaris.toml: access: unknown field 'see'; known: call, publish, deploy"),
        (
            '[access.call]\nallow = ["user:ada"]\n',
            r"access.call.allow: keeps nobody out while all are administrators; name them .*administer = { allow = ",
        ),
        (
            '[access]\ndefault_visibility = "private"\n',
            r"access.default_visibility: nothing is private while all are administrators; name them",
        ),
        (
            '[access.call]\ndeny = ["domain:anl.gov"]\n',
            r"access.call: 'domain:anl.gov' names nobody with auth = 'keys'; expected 'user:NAME'$",
        ),
        ("[recovery]\nlease_s = inf\n", r"polaris.toml: recovery.lease_s: expected a finite number, got inf$"),
        ("[recovery]\nlease_s = 1e400\n", r"polaris.toml: recovery.lease_s: expected a finite number, got inf$"),
        ("[pilots]\nwalltime_s = nan\n", r"polaris.toml: pilots.walltime_s: expected a finite number, got nan$"),
        ("[pilots]\nidle_s = nan\n", r"polaris.toml: pilots.idle_s: expected a finite number, got nan$"),
        ("[queues.x]\nmax_walltime_s = inf\n", r"queues.x.max_walltime_s: expected a finite number, got inf$"),
        ("[scheduler]\nsubmit_burst = 0\n", r"polaris.toml: scheduler.submit_burst: expected .* >= 1"),
        ("state_dir = 3\n", r"polaris.toml: state_dir: expected a path, got 3"),
        ("[pilots\n", r"polaris.toml: not TOML"),
        ("", r"polaris.toml: empty: it says nothing; for a site like local write base = .local"),
        ("base = 3\n", r"polaris.toml: base: expected the name of a site or the path of its file, got 3"),
        ('base = "lokal"\n', r"polaris.toml: base: no site named 'lokal'; known: "),
        (
            "[queues.a]\n[queues.debug]\nmax_nodes = -1\n",
            r"polaris.toml: queues.debug.max_nodes: expected `int` >= 0, got -1$",
        ),
        ("[queues.debug]\npreempt = 3\n", r"polaris.toml: queues.debug.preempt: expected `bool`, got `int`: 3$"),
        ("[queues.debug]\nmaxnodes = 1\n", r"polaris.toml: queues.debug: unknown field 'maxnodes'; did you mean"),
        (
            "[queues.batch]\nmin_nodes = 5\nmax_nodes = 2\n",
            r"polaris.toml: queues.batch.min_nodes: expected ≤ max_nodes, 2, got 5$",
        ),
        (
            "[queues.batch]\nmin_walltime_s = 900\nmax_walltime_s = 600\n",
            r"polaris.toml: queues.batch.min_walltime_s: expected ≤ max_walltime_s, 600, got 900$",
        ),
        ('[containers]\nbinds = ["data"]\n', r"polaris.toml: containers.binds: expected /SOURCE.*, got 'data'"),
        ('[containers]\nbinds = ["/"]\n', r"polaris.toml: containers.binds: '/' would show state_dir \("),
        ('state_dir = "/dev/shm/s"\n[containers]\nruntime = "apptainer"\n', r"state_dir: '/dev/shm/s' lies in "),
        ('shared_dir = "/dev/shm/s"\n[containers]\nruntime = "apptainer"\n', r"shared_dir: '/dev/shm/s' lies in "),
        (
            '[containers]\nruntime = "apptainer"\nstage_dir = "/dev/shm"\n',
            r"containers.stage_dir: '/dev/shm' lies in /dev/shm, which the ranks of a replica see",
        ),
        (
            '[containers]\nstage_dir = "/local/a"\nbinds = ["/local:/local:rw"]\n',
            r"containers.binds: '/local:/local:rw' would let servables write to the copies .*/local/a/hpcserve-",
        ),
        (
            f'state_dir = "/{"x" * 90}"\nshared_dir = "/y"\n[mpi]\nbinds = ["/tmp"]\n',
            r"mpi.binds: '/tmp' would show the daemon's sockets \(/tmp/hpcserve-",
        ),
        (
            '[containers]\nruntime = "shifter"\n',
            r"containers.runtime: expected .apptainer., .none. or .podman-hpc., got 'shifter'$",
        ),
        ('[containers]\nenvironment = ["A B"]\n', r"containers.environment: expected names of variables, got 'A B'"),
        ('[containers]\nsignature_key = "k.pem"\n', r"containers.signature_key: expected the whole path .*'k.pem'"),
        ('shared_dir = "$NOT_SET_HERE/x"\n', r"polaris.toml: shared_dir: '.NOT_SET_HERE/x': NOT_SET_HERE is not set"),
    ],
)
def test_a_wrong_site_file_is_told_with_file_field_and_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, told: str
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ConfigError, match=told):
        config.load_site(site_file(tmp_path, text))


def test_what_containers_may_see_of_a_site(tmp_path: Path) -> None:
    """Read-only, or where no container of ranks ever is."""
    copies = '[containers]\nruntime = "apptainer"\nstage_dir = "/local/a"\nbinds = ["/local", "/local/b:/b:rw"]\n'
    assert config.load_site(site_file(tmp_path, copies)).containers.stage_dir == "/local/a"
    assert config.load_site(site_file(tmp_path, 'state_dir = "/dev/shm/s"\n')).containers.runtime == "none"


def test_a_link_hides_nothing_from_what_is_looked_for_in_binds(tmp_path: Path) -> None:
    (tmp_path / "real" / "state").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    text = f'state_dir = "{tmp_path}/link/state"\n[containers]\nbinds = ["{tmp_path}/real"]\n'
    with pytest.raises(ConfigError, match=r"containers\.binds: .*/real' would show state_dir"):
        config.load_site(site_file(tmp_path, text))


@pytest.mark.parametrize(("kind", "poll_max_s"), [("slurm", 300.0), ("local", 3600.0)])
def test_polls_may_be_as_seldom_as_requeued_agents_and_the_scheduler_allow(
    tmp_path: Path, kind: str, poll_max_s: float
) -> None:
    text = f'[scheduler]\nkind = "{kind}"\npoll_max_s = {poll_max_s}\n'
    assert config.load_site(site_file(tmp_path, text)).scheduler.poll_max_s == poll_max_s


def test_who_may_do_what_is_said_in_four_lists(tmp_path: Path) -> None:
    text = '[access]\ncall = { deny = ["user:eve"] }\nadminister = { allow = ["user:ada"] }\n'
    access = config.load_site(site_file(tmp_path, text)).access
    assert {name: (rules.allowed("keys"), rules.deny) for name, rules in access.lists().items()} == {
        "call": (("*",), ("user:eve",)),
        "publish": (("*",), ()),
        "deploy": (("*",), ()),
        "administer": (("user:ada",), ()),
    }
    assert config.Rules().allowed("globus") == ()


def test_with_globus_somebody_administers() -> None:
    with pytest.raises(ValueError, match=r"access.administer.allow: .* write: \[access\] administer = { allow = "):
        config.Access().check("globus")
    with pytest.raises(ValueError, match="access.call.allow: keeps nobody out while all are administrators"):
        config.Access(call=config.Rules(allow=("user:ada",)), administer=config.Rules(allow=("*",))).check("globus")
    config.Access(administer=config.Rules(allow=("*",))).check("globus")
    config.Access(administer=config.Rules(allow=("group:" + "1c2b8c1c-5b2b-11ef-8d5c-0242ac120002",))).check("globus")


def test_idle_pilots_and_undelivered_results_may_be_kept_for_ever(tmp_path: Path) -> None:
    assert config.load_site(site_file(tmp_path, "[pilots]\nidle_s = inf\n")).pilots.idle_s == float("inf")
    for said in ("[staging]\n", "[staging]\nkeep_undelivered_s = inf\n"):
        assert config.load_site(site_file(tmp_path, said)).staging.keep_undelivered_s == float("inf")


def test_slots_that_share_gpus_share_them_evenly(tmp_path: Path) -> None:
    shared = "[pilots]\ngpus_per_node = 4\nreplicas_per_gpu = 2\nslots = {}\n"
    assert config.load_site(site_file(tmp_path, shared.format(8))).pilots.replicas_per_gpu == 2
    told = "pilots.slots: expected gpus_per_node × replicas_per_gpu, 4 × 2, so that all share the GPUs evenly, got 4$"
    with pytest.raises(ConfigError, match=told):
        config.load_site(site_file(tmp_path, shared.format(4)))
    with pytest.raises(ConfigError, match="pilots.slots: expected gpus_per_node × replicas_per_gpu, 0 × 2"):
        config.load_site(site_file(tmp_path, "[pilots]\nreplicas_per_gpu = 2\n"))
    assert config.load_site(site_file(tmp_path, "[pilots]\ngpus_per_node = 4\nslots = 2\n")).pilots.slots == 2


QUEUE = """
[pilots]
walltime_s = 7200
nodes = 2
launcher = "srun"
gpus_per_node = 4
{which} = "debug"
[queues.debug]
"""


@pytest.mark.parametrize("which", ["partition", "qos"])
@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("max_walltime_s = 3600", r"polaris.toml: pilots.walltime_s: expected ≤ 3600, got 7200 \(queue 'debug'\)$"),
        ("min_walltime_s = 9000", r"polaris.toml: pilots.walltime_s: expected ≥ 9000, got 7200 \(queue 'debug'\)$"),
        ("max_nodes = 1", r"polaris.toml: pilots.nodes: expected ≤ 1, got 2 \(queue 'debug'\)$"),
        ("min_nodes = 3", r"polaris.toml: pilots.nodes: expected ≥ 3, got 2 \(queue 'debug'\)$"),
        ("gpus_per_node = 2", r"polaris.toml: pilots.gpus_per_node: expected ≤ 2, got 4 \(queue 'debug'\)$"),
    ],
)
def test_what_the_queue_does_not_allow_is_refused(tmp_path: Path, which: str, limit: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.load_site(site_file(tmp_path, QUEUE.format(which=which) + limit))


DAEMON = """
[scheduler]
kind = "slurm"
[daemon]
placement = "{placement}"
walltime_s = 7200
{which} = "debug"
[pilots]
partition = "{pilots}"
[queues.debug]
"""


@pytest.mark.parametrize("which", ["partition", "qos"])
@pytest.mark.parametrize(
    ("limit", "pilots", "told"),
    [
        ("max_walltime_s = 3600", "", "walltime_s: expected ≤ 3600, got 7200"),
        ("min_walltime_s = 8000", "", "walltime_s: expected ≥ 8000, got 7200"),
        ("min_nodes = 2", "", "WHICH: expected a queue for jobs of one node, and the fewest nodes here are 2; name"),
        ("preempt = true", "", "WHICH: expected a queue whose jobs are not preempted, as nobody would begin"),
        ("max_running = 1", "debug", "WHICH: the daemon's job is the one that max_running = 1 allows, which leaves"),
        ("max_queued = 1", "debug", "WHICH: the daemon's job is the one that max_queued = 1 allows, which leaves"),
    ],
)
def test_what_the_queue_of_the_daemon_does_not_allow_is_refused(
    tmp_path: Path, which: str, limit: str, pilots: str, told: str
) -> None:
    text = DAEMON.format(placement="job", which=which, pilots=pilots) + limit
    with pytest.raises(ConfigError, match=f"polaris.toml: daemon.{told.replace('WHICH', which)}.*queue 'debug'"):
        config.load_site(site_file(tmp_path, text))
    config.load_site(site_file(tmp_path, text.replace('"job"', '"login"').replace('"debug"', '"other"')))


@pytest.mark.parametrize("limit", ["max_running = 1\nmax_queued = 1", "max_walltime_s = 7200\nmin_nodes = 1"])
def test_a_daemon_whose_queue_allows_it_is_no_error(tmp_path: Path, limit: str) -> None:
    text = DAEMON.format(placement="job", which="partition", pilots="batch") + limit
    assert config.load_site(site_file(tmp_path, text)).daemon.walltime_s == 7200


def test_a_limit_is_told_with_the_file_that_has_it(tmp_path: Path) -> None:
    site = site_file(tmp_path, 'base = "facility"\n[pilots]\npartition = "debug"\nwalltime_s = 3600\n')
    told = r"polaris.toml: pilots.walltime_s: expected ≤ 120, got 3600 \(queue 'debug' of site_configs/facility.toml\)$"
    with pytest.raises(ConfigError, match=told):
        config.load_site(site)


def test_limits_that_are_kept_or_of_another_queue_are_no_error(tmp_path: Path) -> None:
    walltimes = "min_walltime_s = 7200\nmax_walltime_s = 7200\n"
    kept = walltimes + "max_nodes = 2\nmin_nodes = 2\ngpus_per_node = 4\n[queues.other]\nmax_nodes = 1\n"
    assert config.load_site(site_file(tmp_path, QUEUE.format(which="qos") + kept)).pilots.nodes == 2


def test_a_file_says_only_how_it_differs_from_its_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/ada")
    site = config.load_site(
        site_file(tmp_path, 'base = "perlmutter"\n[pilots]\naccount = "m1_g"\n[queues.debug]\nmax_nodes = 2\n')
    )
    assert (site.name, site.pilots.account, site.pilots.constraint) == ("polaris", "m1_g", "gpu")
    assert site.shared_dir == Path("/scratch/ada/hpcserve/shared")
    assert (site.queues["debug"].max_nodes, site.queues["debug"].max_walltime_s) == (2, 1800)
    assert "regular" in site.queues


def test_a_base_of_the_same_name_is_the_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    own = tmp_path / "sites" / "facility.toml"
    own.parent.mkdir()
    own.write_text('base = "facility"\n[pilots]\nslots = 3\n')
    (own.parent / "mine.toml").write_text('base = "facility"\n')
    assert config.load_site("facility").pilots.slots == 3
    assert (config.load_site("mine").pilots.slots, config.load_site("mine").network.host) == (3, "10.77.0.1")
    assert config.load_site("mine").name == "mine"
    assert config.site_names()["facility"] == str(own)
    assert config.site_names()["local"] == "site_configs/local.toml"


def test_a_wrong_value_is_told_with_the_file_that_has_it(tmp_path: Path) -> None:
    site_file(tmp_path, "[pilots]\nslots = 0\n")
    above = tmp_path / "above.toml"
    above.write_text(f'base = "{tmp_path}/polaris.toml"\n[pilots]\nnodes = 1\n')
    with pytest.raises(ConfigError, match=r"^/.*/polaris.toml: pilots.slots: expected"):
        config.load_site(str(above))


def test_a_site_that_stands_on_itself_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    own = tmp_path / "sites" / "lab.toml"
    own.parent.mkdir()
    own.write_text('base = "lab"\n')
    with pytest.raises(ConfigError, match=f"^{own}: base: 'lab' leads back to {own}; name another site$"):
        config.load_site("lab")


def test_files_that_stand_on_each_other_are_refused(tmp_path: Path) -> None:
    site_file(tmp_path, f'base = "{tmp_path}/above.toml"\n')
    above = tmp_path / "above.toml"
    above.write_text(f'base = "{tmp_path}/polaris.toml"\n')
    with pytest.raises(ConfigError, match=r"polaris.toml: base: '/.*above.toml' leads back to this file"):
        config.load_site(str(above))


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("[pilots]\nslots = two\n", "home/sites/polaris/shared"),
        ('shared_dir = "{tmp}/x"\ncolour = 1\n', "x"),
        ('shared_dir = "{tmp}/x"\n[pilots]\nslots = 0\n', "x"),
        ('shared_dir = "{tmp}/x"\n  [pilots\nslots = 1\n', "x"),
        ('base = "{tmp}/below.toml"\n[[queues]]\n', "below"),
        ('base = "{tmp}/below.toml"\nshared_dir = "{tmp}/x"\n[queues.debug]\nmax_nodes = many\n', "x"),
        ('base = "frontier"\nshared_dir = "{tmp}/x"\n', "x"),
    ],
)
def test_where_a_sites_daemon_is_found_is_told_whatever_is_wrong_below(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, shared: str
) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path / "home"))
    (tmp_path / "below.toml").write_text(f'shared_dir = "{tmp_path}/below"\n[pilots]\nslots = none\n')
    site = site_file(tmp_path, text.replace("{tmp}", str(tmp_path)))
    with pytest.raises(ConfigError):
        config.load_site(site)
    assert config.directories_of(site) == (tmp_path / "home/sites/polaris/state", tmp_path / shared)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"polaris.toml: empty"),
        ("shared_dir = /x\n[pilots]\nslots = 1\n", r"polaris.toml: not TOML"),
        ("shared_dir = 3\n[pilots]\nslots = 1\n", r"polaris.toml: shared_dir: expected a path, got 3$"),
        ("state_dir = [3]\n[pilots]\nslots = 1\n", r"polaris.toml: state_dir: expected a path, got \[3\]$"),
        ('shared_dir = "$NOT_SET_ANYWHERE"\n', r"polaris.toml: shared_dir: .*NOT_SET_ANYWHERE is not set here"),
        ('base = "lokal"\n[pilots]\nslots = 1\n', r"polaris.toml: base: no site named 'lokal'"),
    ],
)
def test_where_it_is_found_is_not_guessed(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.directories_of(site_file(tmp_path, text))


def test_what_a_site_requires_must_be_set_before_it_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    told = (
        r"^site_configs/frontier.toml: pilots.account: frontier wants one; set it in .*/sites/frontier.toml, below .* "
    )
    with pytest.raises(ConfigError, match=told + r'base = "frontier": \[pilots\] account = "…"$'):
        config.load_site("frontier")
    assert config.read_site("frontier").pilots.account == ""
    own = site_file(tmp_path, 'base = "frontier"\n')
    with pytest.raises(ConfigError, match=r"^/.*polaris.toml: pilots.account: polaris wants one; set it in /.*polaris"):
        config.load_site(own)


def test_an_unknown_site_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no site named 'lokal'; known: aurora, delta, .*slurm; or give the path"):
        config.load_site("lokal")


def test_a_site_file_that_is_none_is_told_as_what_it_is_and_not_listed() -> None:
    sites = config.home() / "sites"
    sites.mkdir(parents=True)
    (sites / "folder.toml").mkdir()
    (sites / "loop.toml").symlink_to("loop.toml")
    (sites / "lost.toml").symlink_to("gone.toml")
    assert not {"folder", "loop", "lost"} & config.site_names().keys()
    for name, told in {"folder": "Is a directory", "loop": "Too many levels", "lost": "a link to gone.toml"}.items():
        with pytest.raises(ConfigError, match=f"cannot read site file /.*/{name}.toml: .*{told}"):
            config.load_site(name)


def test_a_site_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read site file"):
        config.load_site(str(tmp_path / "none.toml"))


def test_sockets_of_a_deep_state_directory_get_a_short_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert config.runtime_dir(Path("/short")) == Path("/short/run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = Path("/" + "deep/" * 40)
    found = config.runtime_dir(deep)
    assert found.parent == tmp_path
    assert found == config.runtime_dir(deep)
    assert found != config.runtime_dir(deep / "other")


FIRST_IN_THREADS = """
import sys, threading
from hpcserve.config import load_site
sys.setswitchinterval(1e-6)
together = threading.Barrier(6)
def load():
    together.wait()
    load_site()
threads = [threading.Thread(target=load) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_load_the_first_site_at_once() -> None:
    started = [subprocess.Popen([sys.executable, "-c", FIRST_IN_THREADS]) for _ in range(10)]
    assert [each.wait(timeout=60) for each in started] == [0] * 10
