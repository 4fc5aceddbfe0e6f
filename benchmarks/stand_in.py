"""The loopback stand-in for Globus, in a process of its own, steered by its orders."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PATIENCE_S = 60.0


class StandIn:
    """A stand-in that runs.

    Args:
        directory: Its own.
        environment: What makes the Globus SDK speak to it.
    """

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.environment = environment
        self.globus: dict[str, Any] = tomllib.loads((directory / "site.toml").read_text())["globus"]
        self._tls = ssl.create_default_context(cafile=environment["GLOBUS_SDK_VERIFY_SSL"])

    def site(self) -> str:
        """A site file of a service that wants logins of it, and whose administrator is ``admin@lab.example``."""
        names = ("client_id", "client_secret_file", "native_client_id")
        fields = "".join(f'{name} = "{self.globus[name]}"\n' for name in names)
        lists = "".join(f'{each} = {{ allow = ["*"] }}\n' for each in ("call", "publish", "deploy"))
        administer = 'administer = { allow = ["user:admin@lab.example"] }\n'
        return f'auth = "globus"\n[access]\n{lists}{administer}[globus]\n{fields}'

    def token(self, username: str) -> str:
        """A token as this person has it after a login; made known first."""
        self._order("POST", "people", {"username": username})
        scope = f"https://auth.globus.org/scopes/{self.globus['client_id']}/all"
        order = {"username": username, "client": self.globus["native_client_id"], "scope": scope}
        return str(self._order("POST", "tokens", order)["access_token"])

    def asked(self, path: str) -> int:
        """How often this method and path was asked."""
        return int(self._order("GET", "asked").get(path, 0))

    def _order(self, method: str, name: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self.environment['GLOBUS_SDK_SERVICE_URL_AUTH']}stand-in/{name}"
        assert url.startswith("https://localhost:")
        body = None if values is None else json.dumps(values).encode()
        request = Request(url, body, {"content-type": "application/json"}, method=method)  # noqa: S310 (see above)
        with urlopen(request, timeout=PATIENCE_S, context=self._tls) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
        return found


@contextlib.contextmanager
def standing_in() -> Iterator[StandIn]:
    """A stand-in, whose variables this process and those that it starts have meanwhile."""
    with tempfile.TemporaryDirectory(prefix="hpcserve-globus-") as directory:
        argv = [sys.executable, "-m", "hpcserve.testing.globus", directory]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "it was asked to be a pipe"
            try:
                lines = [process.stdout.readline().removeprefix("export ").strip() for _ in range(4)]
                environment = dict(line.split("=", 1) for line in lines)
                os.environ.update(environment)
                yield StandIn(Path(directory), environment)
            finally:
                for name in [name for name in os.environ if name.startswith("GLOBUS_SDK_")]:
                    del os.environ[name]
                process.terminate()
                process.wait(PATIENCE_S)
