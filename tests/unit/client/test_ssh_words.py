"""What ssh says, as OpenSSH 9.2 says it, and what is made of it."""

from __future__ import annotations

import pytest

from hpcserve.client import ssh_words
from hpcserve.client.ssh_address import parse
from hpcserve.client.ssh_words import Unreached
from hpcserve.errors import AuthenticationError, ConfigError, HpcserveError, VersionMismatch

ADDRESS = parse("ssh://ada@login/lab")
CHANGED = b"""@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key verification failed.\r
"""


@pytest.mark.parametrize(
    ("code", "said", "printed", "kind", "words"),
    [
        (
            255,
            b"ada@login: Permission denied (publickey,password).\r\n",
            b"",
            AuthenticationError,
            "ControlMaster auto",
        ),
        (
            255,
            b"Received disconnect from 1.2.3.4: Too many authentication failures\n",
            b"",
            AuthenticationError,
            "ssh-agent",
        ),
        (255, CHANGED, b"", AuthenticationError, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! Host key"),
        (
            255,
            b"No ED25519 host key is known for login\nHost key verification failed.\n",
            b"",
            AuthenticationError,
            "by hand",
        ),
        (
            255,
            b"ssh: connect to host login port 22: Connection refused\r\n",
            b"",
            Unreached,
            "Connection refused",
        ),
        (
            255,
            b"ssh: Could not resolve hostname login: Name or service not known\n",
            b"",
            Unreached,
            "Could not resolve",
        ),
        (255, b"", b"", Unreached, "it said nothing"),
        (
            255,
            b"All others get: Permission denied.\r\nConnection closed by 1.2.3.4 port 22\r\n",
            b"",
            Unreached,
            "Connection closed by",
        ),
        (
            127,
            b"bash: line 1: hpcserve: command not found\n",
            b"",
            ConfigError,
            "'ssh://ada@login/lab?command=/path/to/",
        ),
        (126, b"sh: 1: /opt/hpcserve: Permission denied\n", b"", ConfigError, "cannot be run"),
        (2, b"error: no such command 'connect'; known: up\n", b"", VersionMismatch, "upgrade hpcserve there"),
        (
            1,
            b"",
            b"This account is \x1b[31mnot\x1b[0m available\n",
            Unreached,
            "it printed: This account is not available",
        ),
        (-15, b"", b"", Unreached, "was ended by signal 15"),
    ],
)
def test_each_end_has_its_error(code: int, said: bytes, printed: bytes, kind: type[HpcserveError], words: str) -> None:
    error = ssh_words.ended(ADDRESS, code, said, printed)
    assert type(error) is kind
    assert words in error.message
    assert error.message.isprintable()


def test_of_one_who_says_too_much_the_beginning_and_the_end_are_heard() -> None:
    said = ssh_words.shown(b"a warning " + b"x" * 5000 + b" the reason\n")
    assert said.startswith("a warning x")
    assert said.endswith("x the reason")
    assert len(said) < 750
