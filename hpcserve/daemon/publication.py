"""What the daemon makes known of itself: the service record for clients and agents, the process ids for its own users.

When that is due is decided in :mod:`hpcserve.daemon.supervisor`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

import hpcserve
from hpcserve.auth.keys import KeyPair
from hpcserve.config import Site, runtime_dir
from hpcserve.daemon import processes
from hpcserve.daemon.child import Child
from hpcserve.daemon.launch import DaemonReport
from hpcserve.daemon.plans import ADMISSION, BROKER
from hpcserve.daemon.record import has_record, remove_record, write_record
from hpcserve.daemon.starter import Starter
from hpcserve.errors import HpcserveError
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord

_log = logging.getLogger(__name__)


class Publication:
    """Writes the record and the process ids.

    Args:
        site: The site.
        keys: The service's.
        pid: The process that holds the lease.
        starter: Told of the first record.
    """

    def __init__(self, site: Site, keys: KeyPair, pid: int, starter: Starter) -> None:
        self._site = site
        self._keys = keys
        self._pid = pid
        self._starter = starter
        self._record: ServiceRecord | None = None

    @property
    def is_out(self) -> bool:
        """Whether a record was written."""
        return self._record is not None

    def publish(self, children: Mapping[str, Child], epoch: Epoch) -> None:
        """Writes the record if it says something new, or is not there any more as it was written. All are ready.

        Raises:
            HpcserveError: It cannot be written, and none was before.
        """
        broker, admission = children[BROKER].addresses, children[ADMISSION].addresses
        record = ServiceRecord(
            format=1,
            service=self._site.name,
            site=self._site.name,
            host=socket.gethostname(),
            pid=self._pid,
            epoch=epoch,
            public_key=self._keys.public_z85,
            admission=(admission["admission"],),
            front=(broker["front"],),
            back=(broker["back"],),
            software=f"hpcserve {hpcserve.__version__}",
            front_file=broker.get("front_file", ""),
            back_file=broker.get("back_file", ""),
            staging=self._site.staging_dir,
        )
        if record == self._record:
            if has_record(self._site.shared_dir, record):
                return
            _log.warning("the service record was removed or changed by somebody else: it is written again")
        try:
            path = write_record(self._site.shared_dir, record)
        except HpcserveError as error:
            if self._record is None:
                raise
            _log.error("%s; it is tried again", error)
            return
        self._record = record
        self._starter.report(DaemonReport(path=str(path), record=record))

    def note_processes(self, children: Mapping[str, Child]) -> None:
        """Writes down which process is which, for ``hpcserve status``."""
        pids = {name: child.pid for name, child in children.items() if child.pid is not None}
        try:
            processes.write(runtime_dir(self._site.state_dir), {processes.SUPERVISOR: self._pid, **pids})
        except HpcserveError as error:
            _log.error("%s; `hpcserve status` shows old process ids", error)

    def withdraw(self) -> None:
        """Removes the record, unless another daemon has replaced it."""
        if self._record is not None:
            remove_record(self._site.shared_dir, self._record)
