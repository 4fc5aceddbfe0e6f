"""Addresses of ssh, and the commands that follow from them: nothing in one is ever an option or a second command."""

from __future__ import annotations

import shlex

import pytest

from hpcserve.cli.main import main
from hpcserve.client.services import Services
from hpcserve.client.ssh_address import parse, refuse_other_schemes
from hpcserve.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "login", "place"),
    [
        ("ssh://polaris", "polaris", ""),
        ("ssh://polaris/", "polaris", ""),
        ("ssh://ada@polaris", "ada@polaris", ""),
        ("ssh://ada@login.example.org:2222/lab", "-p 2222 ada@login.example.org", "lab"),
        ("ssh://Polaris_1", "Polaris_1", ""),
        ("ssh://ada@example.org@login", "ada@example.org@login", ""),
        ("ssh://[::1]:22", "-p 22 ::1", ""),
        ("ssh://login/lustre/ada/hpcserve", "login", "/lustre/ada/hpcserve"),
        ("ssh://login//service.json", "login", "/service.json"),
        ("ssh://login/~/lab.toml", "login", "~/lab.toml"),
        ("ssh://login/a%20b/c", "login", "/a b/c"),
    ],
)
def test_what_an_address_says(text: str, login: str, place: str) -> None:
    found = parse(text)
    assert (found.login, found.place, found.text) == (login, place, text)


def test_the_command_is_a_list_of_words_and_the_host_no_option() -> None:
    argv = parse("ssh://ada@login:2222/lab").argv()
    assert argv[0] == "ssh"
    assert argv[-3:] == ["--", "login", "hpcserve connect lab"]
    assert argv[argv.index("-l") + 1] == "ada"
    assert argv[argv.index("-p") + 1] == "2222"
    assert "BatchMode=yes" in argv


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ssh://login?command=/opt/hpc+serve/bin/hpcserve", "/opt/hpc+serve/bin/hpcserve connect"),
        ("ssh://login?command=~/venv/bin/hpcserve", "~/venv/bin/hpcserve connect"),
        ("ssh://login/a%27b%3Brm/c?command=~/a%20b", "~/'a b' connect '/a'\"'\"'b;rm/c'"),
    ],
)
def test_the_shell_there_reads_the_words_that_were_meant(text: str, command: str) -> None:
    assert parse(text).remote_command() == command
    assert len(shlex.split(command)) == (3 if "rm" in text else 2)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh:///lab",
        "ssh://-oProxyCommand=touch%20x",
        "ssh://login:99999",
        "ssh://login:port",
        "ssh://a b",
        "ssh://lo\ngin",
        "ssh://-v@login",
        "ssh://ada:secret@login",
        "ssh://login?comand=x",
        "ssh://login?command=",
        "ssh://login?command=-x",
        "ssh://login?command=a&command=b",
        "ssh://login#lab",
        "ssh://login/-x",
        "ssh://login/a%0Ab/c",
        "ssh://login?command=a%0Ab",
        "ssh://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected ssh://\[USER@\]LOGIN"):
        parse(text)


@pytest.mark.parametrize("text", ["http://x", "tcp://login:5000", "SSH://login", "file:///x/service.json"])
def test_an_address_of_another_kind_is_refused_with_those_that_there_are(text: str) -> None:
    told = rf"'{text}': {text.partition('/')[0]}// leads to no service; expected ssh://.*, or the path of"
    with pytest.raises(ConfigError, match=told):
        refuse_other_schemes(text)
    with pytest.raises(ConfigError, match=told):
        Services().chosen(text)
    assert main(["service", "add", "lab", text]) == 2


@pytest.mark.parametrize("text", ["ssh://login", "/x/service.json", "lab", "./http:/x"])
def test_what_may_be_an_address_or_a_path_is_not_refused(text: str) -> None:
    refuse_other_schemes(text)
