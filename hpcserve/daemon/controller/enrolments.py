"""What lets an agent in: the file that is laid down for each incarnation of a pilot, and what an agent has to show.

A job that the scheduler puts back into the queue begins anew as another *incarnation*: with a secret of its own in
another enrolment file, so that what is left of the one before is not let in.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from pathlib import Path

import msgspec

from hpcserve.auth import private
from hpcserve.config import Site
from hpcserve.daemon.images import mpi_rules_of, rules_of, staging_rules_of
from hpcserve.daemon.launch import ENROLMENTS
from hpcserve.errors import AuthenticationError, ConfigError, HpcserveError, SchedulerError
from hpcserve.registry.rows import PilotRow
from hpcserve.types import PilotId
from hpcserve.wire.launch import Enrolment, encode_enrolment, enrolment_name

_log = logging.getLogger(__name__)


class Enrolments:
    """The files.

    Args:
        site: Whose pilots they are for.
        logs: Where agents write what replicas print.
    """

    def __init__(self, site: Site, logs: Path) -> None:
        self._pilots = site.pilots
        self._containers = rules_of(site.containers)
        self._mpi = mpi_rules_of(site.mpi)
        self._staging = staging_rules_of(site)
        self._prologue = site.environments.prologue
        self._place = site.shared_dir / ENROLMENTS
        self._logs = logs

    def begun(self, row: PilotRow) -> PilotRow:
        """``row``, one incarnation back where the present one's agent was told nothing: then it is begun again."""
        if row.restarts == 0 or row.public_key is not None:
            return row
        try:
            self._path(row.id, row.restarts).stat()
        except FileNotFoundError:
            return msgspec.structs.replace(row, restarts=row.restarts - 1)
        except OSError as error:
            _log.warning("whether the agent of pilot %s can be let in is not known: %s", row.id, error)
        return row

    def lay_down(self, row: PilotRow, secret: str) -> None:
        """Tells an incarnation's agent what it needs. The directory of the logs is there, whoever has removed it.

        Raises:
            StorageFull: There is no room for it.
            ConfigError: It may not be written, or something else is where the logs are to be.
            SchedulerError: The file system has a fault, which may pass.
        """
        try:
            if not self._logs.is_dir():
                private.private_directory(self._logs)
            self._write(row, secret)
        except OSError as error:
            what = f"cannot look at directory {self._logs}"
            raise _fault(private.storage_error(error, what), error) from error
        except ConfigError as error:
            raise _fault(error, error.__cause__) from error

    def _write(self, row: PilotRow, secret: str) -> None:
        enrolment = Enrolment(
            pilot=row.id,
            incarnation=row.incarnation,
            secret=secret,
            slots=self._pilots.slots,
            replicas_per_gpu=self._pilots.replicas_per_gpu,
            walltime_s=row.walltime_s or self._pilots.walltime_s,
            orphan_s=self._pilots.orphan_s,
            stop_grace_s=self._pilots.stop_grace_s,
            log_dir=str(self._logs),
            log_bytes=self._pilots.log_bytes,
            launcher=self._pilots.launcher,
            bind=self._pilots.bind,
            mps=self._pilots.mps,
            containers=self._containers,
            mpi=self._mpi,
            prologue=self._prologue,
            staging=self._staging,
        )
        private.private_directory(self._place)
        private.replace(self._path(row.id, row.restarts), encode_enrolment(enrolment))

    def remove(self, pilot: PilotId, restarts: int) -> None:
        """Removes those of all incarnations of a pilot that has ended; ``restarts``: of the last one."""
        for number in range(restarts + 1):
            path = self._path(pilot, number)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # its secret lets nobody in any more
                _log.warning("the enrolment file of pilot %s stays: %s", pilot, error)

    def _path(self, pilot: PilotId, restarts: int) -> Path:
        return Path(enrolment_name(str(self._place / pilot), restarts))


def _fault(error: HpcserveError, cause: BaseException | None) -> HpcserveError:
    """The error that tells whether it is worth while to try again: a stale handle or a server that is away may pass."""
    if isinstance(error, ConfigError) and isinstance(cause, OSError) and cause.errno not in private.NOT_OURS_TO_WRITE:
        return SchedulerError(f"{error.message}; look at shared_dir")
    return error


def incarnation(row: PilotRow, restarts: int) -> tuple[PilotRow, str]:
    """The row of a pilot's incarnation, and its secret."""
    secret = secrets.token_urlsafe(32)
    changed = msgspec.structs.replace(
        row,
        incarnation=secrets.token_hex(8),
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
        restarts=restarts,
        host=None,
        public_key=None,
    )
    return changed, secret


def check(row: PilotRow, incarnation: str, secret: str, key: bytes) -> None:
    """Whether an agent with this key may be that of the pilot's present incarnation.

    Raises:
        AuthenticationError: It is not.
    """
    digest = hashlib.sha256(secret.encode()).hexdigest()
    if incarnation != row.incarnation or not secrets.compare_digest(digest, row.secret_sha256):
        raise AuthenticationError(f"pilot {row.id}: another incarnation has taken its place, or the secret is wrong")
    if row.public_key is not None and row.public_key != key.hex():
        raise AuthenticationError(f"pilot {row.id}: its secret was used before")


def check_host(pilot: PilotId, expected: str, host: str) -> None:
    """Whether an agent that says that it runs on ``host`` runs where its pilot does.

    Raises:
        AuthenticationError: It does not.
    """
    if _short(expected) != _short(host):
        raise AuthenticationError(f"pilot {pilot} runs on {expected}, this agent on {host}")


def _short(host: str) -> str:
    """A node's name as schedulers spell it: some nodes call themselves by their whole name."""
    return host.partition(".")[0]
