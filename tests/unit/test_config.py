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
        ("[pilots]\nslots = 0\n", r"polaris.toml: pilots.slots: expected .* >= 1"),
        ("[pilots]\nwalltime_s = -1.0\n", r"polaris.toml: pilots.walltime_s: expected .* > 0"),
        ('[pilots]\nslots = "two"\n', r"polaris.toml: pilots.slots: expected `int`, got `str`"),
        ("[pilots]\nslotz = 1\n", r"polaris.toml: pilots: .*slotz"),
        ("colour = 1\n", r"polaris.toml: unknown field 'colour'; known: name, mode, .*recovery$"),
        ("[pilot]\nslots = 1\n", r"polaris.toml: unknown field 'pilot'; did you mean 'pilots'\?$"),
        ("[pilots]\nslot = 1\n", r"polaris.toml: pilots: unknown field 'slot'; did you mean 'slots'\?$"),
        ("[network]\nfront_port = 70000\n", r"polaris.toml: network.front_port: expected .* <= 65535"),
        ('[network]\nhost = "0.0.0.0"\n', r"polaris.toml: network: host: expected the address .* got '0.0.0.0'"),
        ('auth = "none"\n', r"polaris.toml: auth: invalid .*none"),
        ("[pilots]\norphan_s = 3\n", r"polaris.toml: pilots: orphan_s: expected ≥ 4, got 3: agents would end"),
        ("[recovery]\nrecovery_grace_s = 1.5\n", r"polaris.toml: recovery: recovery_grace_s: expected ≥ 2, got 1.5"),
        ("state_dir = 3\n", r"polaris.toml: state_dir: expected a path, got 3"),
        ("[pilots\n", r"polaris.toml: not TOML"),
    ],
)
def test_a_wrong_site_file_is_told_with_file_field_and_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.load_site(site_file(tmp_path, text))


def test_an_unknown_site_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no site named 'lokal'; known: local; or give the path"):
        config.load_site("lokal")


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
