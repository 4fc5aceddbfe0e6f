"""``ssh://[user@]login[:port][/place][?command=PATH]``: a service that is reached by ssh, and the command that does it.

The place is the name of a site there, or a path there: of a service record, of the directory that holds it, or of a
site file. Whatever else ssh has to know stands in the user's own ``~/.ssh/config``, of which ``login`` may be a name.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from hpcserve.errors import ConfigError

SCHEME = "ssh://"
FORM = "ssh://[USER@]LOGIN[:PORT][/SITE or /PATH][?command=PATH]"
COMMAND = "hpcserve"

_HOST = re.compile(r"[A-Za-z0-9_.%:][A-Za-z0-9_.%:-]*")
_OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USER = re.compile(r"[^\s:@/\x00-\x1f\x7f-][^\s:/\x00-\x1f\x7f]*")

# What the user's own configuration may say for a shell, and would be wrong or in the way for us.
_OPTIONS = (
    "BatchMode=yes",  # nobody is there to answer a question
    "ConnectTimeout=15",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
)


class SshAddress(NamedTuple):
    """Where ``hpcserve connect`` is to be run. ``place`` is empty for the service that is the default one there."""

    text: str
    host: str
    user: str = ""
    port: int | None = None
    place: str = ""
    command: str = COMMAND

    @property
    def login(self) -> str:
        """What to type after ``ssh`` to get there by hand."""
        host = f"{self.user}@{self.host}" if self.user else self.host
        return f"-p {self.port} {host}" if self.port else host

    def argv(self) -> list[str]:
        """The local command."""
        options = [word for option in _OPTIONS for word in ("-o", option)]
        port = ["-p", str(self.port)] if self.port else []
        user = ["-l", self.user] if self.user else []
        return ["ssh", "-T", "-x", "-a", *options, *port, *user, "--", self.host, self.remote_command()]

    def remote_command(self) -> str:
        """The command for the login shell there, whichever it is."""
        home, slash, inside = self.command.partition("~/")
        command = f"~/{shlex.quote(inside)}" if slash and not home else shlex.quote(self.command)
        return " ".join([command, "connect", *([shlex.quote(self.place)] if self.place else [])])


def is_ssh(text: str) -> bool:
    """Whether this is meant to be such an address."""
    return text.startswith(SCHEME)


def refuse_other_schemes(text: str) -> None:
    """Whoever writes ``http://x`` means no file of this name, and no service that is called so.

    Raises:
        ConfigError: The text is an address that is not of ssh.
    """
    scheme = _OTHER.match(text)
    if scheme and not is_ssh(text):
        raise ConfigError(
            f"{text!r}: {scheme[0]} leads to no service; expected {FORM}, or the path of a service record"
        )


def parse(text: str) -> SshAddress:
    """The address that ``text`` says.

    Raises:
        ConfigError: It is none.
    """
    if not text.isprintable():  # urlsplit passes over some such characters
        raise ConfigError(f"{text!r} is no address; expected {FORM}")
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}; expected {FORM}") from error
    login = parts.netloc.rpartition("@")[2]
    if not login.startswith("["):  # urlsplit makes the name small, which an alias of ~/.ssh/config may not be
        host = login.partition(":")[0]
    user = unquote(parts.netloc.rpartition("@")[0])
    if not _HOST.fullmatch(host) or (user and not _USER.fullmatch(user)):
        raise ConfigError(f"{text!r}: no login node or no user that ssh could take; expected {FORM}")
    if parts.fragment:
        raise ConfigError(f"{text!r}: {parts.fragment!r} is not understood; expected {FORM}")
    return SshAddress(text, host, user, port, _place(text, unquote(parts.path)), _command(text, parts.query))


def _command(text: str, query: str) -> str:
    if not query:
        return COMMAND
    name, _, value = query.partition("=")
    command = unquote(value)
    if name != "command" or "&" in query:
        raise ConfigError(f"{text!r}: {query!r} is not understood; expected {FORM}")
    if not command or command.startswith("-") or not command.isprintable():
        raise ConfigError(f"{text!r}: {command!r} is no path of a command; expected {FORM}")
    return command


def _place(text: str, path: str) -> str:
    """``/lab`` names a site, and every longer path is one from the root there."""
    if not path.isprintable():
        raise ConfigError(f"{text!r}: {path!r} is no path; expected {FORM}")
    place = path.removeprefix("/")
    if place.startswith("-"):
        raise ConfigError(f"{text!r}: {place!r} is no site; expected {FORM}")
    if "/" not in place or place.startswith("~/"):
        return place
    return place if place.startswith("/") else f"/{place}"
