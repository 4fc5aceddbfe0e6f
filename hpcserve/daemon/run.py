"""A daemon from its preparation to its end: who may be the daemon, and how it says that it cannot.

What the one that may does is decided in :mod:`hpcserve.daemon.supervisor`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable

from hpcserve.auth.private import storage_error
from hpcserve.cluster.signals import Signals
from hpcserve.config import Site
from hpcserve.daemon import farewell
from hpcserve.daemon.attention import attend
from hpcserve.daemon.lease import HeldLease, acquire
from hpcserve.daemon.logs import log_path, log_to
from hpcserve.daemon.plans import Plan
from hpcserve.daemon.preparation import prepare
from hpcserve.daemon.starter import Starter
from hpcserve.daemon.supervisor import EXIT_DOWN, EXIT_FAILED, Supervisor
from hpcserve.daemon.timing import Timing, timing_of
from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)


class _AskedToStop(Exception):
    """A signal, or the starter's end, before there was anything to take down."""


def run(
    site: Site,
    plans: Iterable[Plan],
    starter: Starter,
    timing: Timing | None = None,
    *,
    warn_in_s: float | None = None,
) -> int:
    """Runs a daemon until it is taken down. Call it in the main thread.

    Args:
        site: The site.
        plans: The broker, the controller and admission: see :func:`hpcserve.daemon.plans.daemon_plans`.
        starter: Who is told how the start went.
        timing: How long things may take; default: what fits the site.
        warn_in_s: So long from now the end of the daemon's job is near, and no signal will tell; None: one will, or
            there is no such end.

    Returns:
        The exit code: 0 after an orderly end, 1 after a failure, 3 when another daemon took the lease.
    """
    signals = Signals(warning=signal.SIGUSR1)
    if warn_in_s is not None:
        signals.warn_in(warn_in_s)
    lease: HeldLease | None = None
    try:
        keys = prepare(site)
        lease = acquire(
            site.shared_dir,
            state_dir=site.state_dir,
            service=keys.public_z85,
            lease_s=site.recovery.lease_s,
            wait=lambda for_s: _wait(for_s, signals, starter),
            tell=starter.tell,
        )
        # Not before: until now the log may be that of the daemon that runs.
        log_to(log_path(site.shared_dir, "supervisor"))
        farewell.clear(site.state_dir)
        supervisor = Supervisor(
            site, plans, keys=keys, lease=lease, starter=starter, signals=signals, timing=timing or timing_of(site)
        )
        return supervisor.run()
    except _AskedToStop as asked:
        _log.info("nothing was started: %s", asked)
        return EXIT_DOWN
    except (HpcserveError, OSError) as error:
        failure = error if isinstance(error, HpcserveError) else storage_error(error, "the daemon cannot start")
        if lease is not None:
            _log.error("%s", failure)
        starter.complain(failure)
        return EXIT_FAILED
    except Exception:
        _log.exception("the supervisor has a defect; its children end with it")
        raise
    finally:
        signals.close()


def _wait(for_s: float, signals: Signals, starter: Starter) -> None:
    attend(signals, starter, for_s)
    if signals.stop or starter.gone:
        raise _AskedToStop(signals.stop or starter.gone)
