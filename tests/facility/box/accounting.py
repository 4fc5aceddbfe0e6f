"""Slurm's accounting: a MariaDB of the box's own, slurmdbd, an account and two QOS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.facility.box.errors import BoxError
from tests.facility.box.files import CLUSTER
from tests.facility.box.host import Host, until
from tests.facility.box.options import ACCOUNT, TINY_QOS

PORT = 6819

SETUP = f"""\
add cluster {CLUSTER}
add qos {TINY_QOS} set MaxSubmitJobsPerUser=1
add account {ACCOUNT} Description=box Organization=box
add user root DefaultAccount={ACCOUNT} QOS=normal,{TINY_QOS} DefaultQOS=normal
"""


class Accounting:
    """The database and slurmdbd, on the login node.

    Args:
        login: The login node.
        directory: The box's.
    """

    def __init__(self, login: Host, directory: Path) -> None:
        self._login = login
        self._directory = directory
        self._install: subprocess.Popen[str] | None = None
        self._slurmdbd: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Begins to make the database's files, which takes a moment."""
        program = "mariadb-install-db"
        argv = [program, *self._options(), "--skip-test-db", "--auth-root-authentication-method=normal"]
        self._install = self._login.start_daemon(argv)

    def finish(self) -> None:
        """Starts both daemons, and makes the cluster, the account and the QOS.

        Raises:
            BoxError: One of them does not start.
        """
        assert self._install is not None, "begun before"
        if self._install.wait(60):
            raise BoxError(f"mariadb-install-db failed; see {self._login.output_of('mariadb-install-db')}")
        argv = ["mariadbd", *self._options(), f"--socket={self._socket}", f"--pid-file={self._place}/pid"]
        # No thread pool, cache or network of it is of use to four nodes.
        self._login.start_daemon([*argv, "--skip-networking", "--innodb-lock-wait-timeout=900"])
        ask = ["mariadb-admin", "--no-defaults", f"--socket={self._socket}", "ping"]
        until(lambda: self._login.run(ask, check=False).returncode == 0, "MariaDB answers")
        self.start_slurmdbd()
        self._login.run(["sacctmgr", "-i"], text=SETUP)

    def start_slurmdbd(self) -> None:
        """Starts slurmdbd and waits until it can be called."""
        self._slurmdbd = self._login.start_daemon(["slurmdbd", "-D"], env={"MYSQL_UNIX_PORT": str(self._socket)})
        until(self._listens, f"slurmdbd listens; see {self._directory}/log/slurmdbd.log")

    def stop_slurmdbd(self) -> None:
        """Kills slurmdbd."""
        assert self._slurmdbd is not None, "it was started"
        self._slurmdbd.kill()
        self._slurmdbd.wait()

    @property
    def _place(self) -> Path:
        return self._directory / "database"

    @property
    def _socket(self) -> Path:
        return self._place / "socket"

    def _options(self) -> list[str]:
        return [
            "--no-defaults",
            "--user=root",
            f"--datadir={self._place}/data",
            f"--tmpdir={self._place}",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-file-per-table=0",
            "--innodb-flush-method=nosync",
            # The kernel has a limit for all databases of the machine together.
            "--innodb-use-native-aio=0",
            "--performance-schema=0",
        ]

    def _listens(self) -> bool:
        """Whether some socket of the login node's network listens on slurmdbd's port."""
        table = (
            Path(f"/proc/{self._login.init}/net/tcp").read_text()
            + Path(f"/proc/{self._login.init}/net/tcp6").read_text()
        )
        lines = [line.split() for line in table.splitlines()]
        return any(len(line) > 3 and line[3] == "0A" and line[1].endswith(f":{PORT:04X}") for line in lines)
