"""The administrative calls: what each verb does. The command line is a client that makes them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import msgspec

from hpcserve.core.capacity import limit_in_words, most_replicas
from hpcserve.core.fleetview import Policy
from hpcserve.core.sitepaths import caller_directory
from hpcserve.core.spelling import nearest, shortened
from hpcserve.core.width import Ranks, misfit
from hpcserve.daemon.controller.callers import check_directory, check_manifest
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.gpus import check_gpus
from hpcserve.daemon.controller.logs import read_logs
from hpcserve.daemon.controller.plan import servable_of, serving
from hpcserve.daemon.controller.view import status_of
from hpcserve.daemon.images import SiteContainers
from hpcserve.errors import HpcserveError, InvalidInput, Overloaded, ProtocolError, UnknownEndpoint
from hpcserve.registry.ingest import Ingested, ingest
from hpcserve.registry.rows import DeploymentRow, ServableRow
from hpcserve.registry.store import Store
from hpcserve.servable.manifest import check_name, to_json
from hpcserve.types import DeploymentName, Digest, EndpointName
from hpcserve.wire import admin as verbs
from hpcserve.wire import hub
from hpcserve.wire.frames import error_to_wire, from_raw, raw

_log = logging.getLogger(__name__)

IMPORT_S = 120.0
INGESTERS, MOST_INGESTING = 2, 8
"""So many servables are taken in at a time; so many may wait for it or be at it."""
SETTINGS = (
    "objective_ms",
    "max_batch_size",
    "max_queue_bytes",
    "max_queue_s",
    "kill_cancelled_s",
    "max_replicas",
    "hot_replicas",
    "idle_s",
)
MOST_BYTES = 1 << 62
"""More than this no queue may be allowed: the store's numbers end soon after it."""
MOST_SAMPLES = (1 << 31) - 1  # what an INTEGER of PostgreSQL holds
ASKING = frozenset({"status", "describe", "logs", "delivered"})
"""The calls that change little. Programs make them many times a second, and would bury the others in the log."""


class Admin:
    """Answers calls. ``supervisor`` is the pid that ends last when the daemon goes down."""

    def __init__(self, controller: Controller, *, supervisor: int) -> None:
        self._controller = controller
        self._supervisor = supervisor
        self.goes_down = False
        """Whether a caller took the daemon down, and the answer may still be on its way."""
        self._ingesters = ThreadPoolExecutor(INGESTERS, thread_name_prefix="ingest")
        self._ingesting = 0
        self._stopped = Event()
        self._verbs: dict[str, tuple[type[Any], Callable[[Any], Awaitable[verbs.Admin]]]] = {
            "publish": (verbs.Publish, self.publish),
            "deploy": (verbs.Deploy, self.deploy),
            "undeploy": (verbs.Undeploy, self.undeploy),
            "status": (verbs.AskStatus, self.status),
            "describe": (verbs.Describe, self.describe),
            "logs": (verbs.AskLogs, self.logs),
            "down": (verbs.Down, self.down),
        }

    def close(self) -> None:
        """Gives up what takes long."""
        self._stopped.set()
        self._ingesters.shutdown(wait=False, cancel_futures=True)

    async def answer(self, call: hub.ClientCalls) -> None:
        """Carries one call out and answers it, whatever happens."""
        _log.log(logging.DEBUG if call.verb in ASKING else logging.INFO, "%s calls %s", call.identity, call.verb)
        error, body = None, msgspec.Raw(b"\x80")
        try:
            body = raw(await self._carry_out(call))
        except HpcserveError as failure:
            error = error_to_wire(failure)
        except Exception as failure:  # noqa: BLE001 (a caller must not wait for ever because of a bug in here)
            _log.exception("%s failed", call.verb)
            error = error_to_wire(
                HpcserveError(f"{call.verb}: {failure}; this is a bug, see: hpcserve logs controller")
            )
        self._controller.hub.tell(hub.ToClientRelay(call.connection, call.id, error, body))

    def refuse(self, call: hub.ClientCalls) -> None:
        """Answers a call for which there is no room."""
        error = Overloaded("too many calls are being carried out", retry_after_s=1.0)
        self._controller.hub.tell(hub.ToClientRelay(call.connection, call.id, error_to_wire(error)))

    async def _carry_out(self, call: hub.ClientCalls) -> verbs.Admin:
        if call.verb not in self._verbs and call.verb != "delivered":
            raise ProtocolError(f"no call {shortened(call.verb)}{nearest(call.verb, self._verbs)}")
        owner = caller_directory(call.identity)
        if call.verb == "delivered":
            return await self.delivered(owner, from_raw(call.body, verbs.Delivered))
        kind, do = self._verbs[call.verb]
        arguments = from_raw(call.body, kind)
        return await (self.publish(arguments, owner) if isinstance(arguments, verbs.Publish) else do(arguments))

    async def publish(self, arguments: verbs.Publish, owner: str = "") -> verbs.Published:
        """Takes a servable's directory in. ``owner``: the name of the caller's own directory."""
        await asyncio.to_thread(check_directory, self._controller.site, owner, arguments.path)
        for alias in arguments.aliases:
            _check("an alias", alias)
        found = await self._ingest(Path(arguments.path), owner)
        row = ServableRow(
            name=found.manifest.name,
            version=found.version,
            manifest_json=to_json(found.manifest),
            path=str(found.path),
            created_s=time.time(),
        )
        new = await self._controller.storage.do(Store.add_servable, row)
        for alias in arguments.aliases:
            await self._controller.storage.do(Store.set_alias, row.name, alias, row.version)
        return verbs.Published(name=row.name, version=row.version, methods=tuple(found.manifest.methods), new=new)

    async def _ingest(self, path: Path, owner: str) -> Ingested:
        """Takes a directory in on threads of its own: copying and importing may take minutes."""
        if not path.is_absolute():
            raise InvalidInput(
                f"the path {str(path)!r} is relative, and the daemon runs elsewhere; give the whole path"
            )
        if self._ingesting >= MOST_INGESTING:
            raise Overloaded(f"{self._ingesting} servables are being published", retry_after_s=5.0)
        self._ingesting += 1
        try:
            site = self._controller.site
            containers = SiteContainers(site, timeout_s=IMPORT_S)
            work = partial(
                ingest,
                path,
                site.shared_dir,
                timeout_s=IMPORT_S,
                stop=self._stopped,
                prologue=site.environments.prologue,
                containers=containers,
                check=partial(check_manifest, site, owner),
            )
            return await asyncio.get_running_loop().run_in_executor(self._ingesters, work)
        finally:
            self._ingesting -= 1

    async def deploy(self, arguments: verbs.Deploy) -> verbs.Deployed:
        """Serves a version at an endpoint; one that is served there already is replaced, replica by replica."""
        name, version = await self._controller.storage.do(Store.resolve, arguments.servable)
        servable = await self._controller.storage.do(Store.servable, name, version)
        policy, ranks = self._controller.fleet.policy, servable_of(servable).version.ranks
        check_gpus(name, servable_of(servable).manifest.ranks, self._controller.site)
        never = misfit(ranks, policy)
        if never:
            raise InvalidInput(f"a replica of {name} does not fit into this site: {never}")
        if not 0 <= arguments.replicas <= most_replicas(policy, ranks):
            raise InvalidInput(f"replicas is {arguments.replicas}; expected 0 or more; {limit_in_words(policy, ranks)}")
        _check_scale(arguments, policy, ranks)
        if arguments.objective_ms is not None and not 0 < arguments.objective_ms < float("inf"):
            raise InvalidInput(f"objective_ms is {arguments.objective_ms}; expected milliseconds, more than 0")
        if arguments.max_batch_size is not None and not 1 <= arguments.max_batch_size <= MOST_SAMPLES:
            told = f"expected from 1 (no batches) to {MOST_SAMPLES}"
            raise InvalidInput(f"max_batch_size is {arguments.max_batch_size}; {told}")
        if arguments.max_queue_bytes is not None and not 0 < arguments.max_queue_bytes <= MOST_BYTES:
            raise InvalidInput(f"max_queue_bytes is {arguments.max_queue_bytes}; expected from 1 to {MOST_BYTES}")
        if arguments.max_queue_s is not None and not 0 < arguments.max_queue_s < float("inf"):
            raise InvalidInput(f"max_queue_s is {arguments.max_queue_s}; expected seconds, more than 0")
        if arguments.kill_cancelled_s is not None and not 0 <= arguments.kill_cancelled_s < float("inf"):
            raise InvalidInput(f"kill_cancelled_s is {arguments.kill_cancelled_s}; expected seconds, 0 or more")
        endpoint = arguments.endpoint or name
        _check("an endpoint", endpoint)
        row = DeploymentRow(
            name=DeploymentName(endpoint),
            servable=name,
            version=Digest(version),
            replicas=arguments.replicas,
            endpoint=EndpointName(endpoint),
            created_s=time.time(),
            objective_ms=arguments.objective_ms,
            max_batch_size=arguments.max_batch_size,
            max_queue_bytes=arguments.max_queue_bytes,
            max_queue_s=arguments.max_queue_s,
            kill_cancelled_s=arguments.kill_cancelled_s,
            max_replicas=arguments.max_replicas,
            hot_replicas=arguments.hot_replicas,
            idle_s=arguments.idle_s,
        )
        before = next(
            (each for each in await self._controller.storage.do(Store.deployments) if each.name == row.name), None
        )
        await self._controller.storage.do(Store.put_deployment, row)
        self._controller.serve(row, servable_of(servable))
        await self._controller.wait_for_routes()  # before the answer: whoever gets it may call the endpoint
        unset = _unset(before, row)
        return verbs.Deployed(
            deployment=row.name, endpoint=endpoint, version=version, replicas=row.replicas, unset=unset
        )

    async def undeploy(self, arguments: verbs.Undeploy) -> verbs.Undeployed:
        """Serves no longer at an endpoint."""
        name = self._deployment(arguments.endpoint)
        await self._controller.storage.do(Store.remove_deployment, name)
        self._controller.unserve(name)
        await self._controller.wait_for_routes()
        return verbs.Undeployed(endpoint=arguments.endpoint)

    async def status(self, arguments: verbs.AskStatus) -> verbs.Status:
        """Everything there is to see."""
        return await status_of(self._controller)

    async def describe(self, arguments: verbs.Describe) -> verbs.Described:
        """The methods of what is served at an endpoint: of the version that answers now."""
        name = self._deployment(arguments.endpoint)
        servable = serving(self._controller.fleet, name, self._controller.servables)
        return verbs.Described(
            endpoint=arguments.endpoint,
            deployment=name,
            version=servable.version.digest,
            manifest=msgspec.to_builtins(servable.manifest),
        )

    async def logs(self, arguments: verbs.AskLogs) -> verbs.Logs:
        """The end of log files."""
        replicas = [each.replica for each in self._controller.fleet.replicas.values()]
        read = partial(
            read_logs,
            self._controller.site.shared_dir / "logs",
            arguments,
            writers=[*replicas, *self._controller.pilots.jobs],
            deployments=list(self._controller.served),
        )
        return await asyncio.to_thread(read)

    async def delivered(self, owner: str, arguments: verbs.Delivered) -> verbs.Noted:
        """A caller has staged results of its own."""
        return verbs.Noted(known=await self._controller.staged.delivered(owner, arguments.paths))

    async def down(self, arguments: verbs.Down) -> verbs.GoingDown:
        """Takes the daemon down. The supervisor is told before the caller, should this process end.

        While pilots are drained the daemon is there as ever; the controller goes when none is left.
        """
        controller = self._controller
        controller.bid_farewell(arguments.pilots)
        if arguments.pilots != "drain":
            os.kill(self._supervisor, signal.SIGTERM)
            os.kill(self._supervisor, signal.SIGCONT)  # one that was stopped would not get to know
        self.goes_down = True
        kept = controller.pilots.jobs.items() if arguments.pilots == "keep" else ()
        return verbs.GoingDown(
            pid=self._supervisor,
            host=socket.gethostname(),
            kept={pilot: job.name or "" for pilot, job in kept},
            trouble=controller.fence.trouble,
        )

    def _deployment(self, endpoint: str) -> DeploymentName:
        for name, row in self._controller.served.items():
            if row.endpoint == endpoint:
                return name
        known = [row.endpoint for row in self._controller.served.values()]
        raise UnknownEndpoint(f"no endpoint {shortened(endpoint)}{nearest(endpoint, known)}")


def _check_scale(arguments: verbs.Deploy, policy: Policy, ranks: Ranks) -> None:
    """Whether the number of replicas can follow the demand as is wanted.

    Raises:
        InvalidInput: It cannot.
    """
    most = arguments.max_replicas
    if most is None:
        for name in ("hot_replicas", "idle_s"):
            if getattr(arguments, name) is not None:
                raise InvalidInput(f"{name} is set, and max_replicas is not; it says something of what is scaled alone")
        return
    if not 1 <= most <= most_replicas(policy, ranks):
        raise InvalidInput(f"max_replicas is {most}; expected 1 or more; {limit_in_words(policy, ranks)}")
    if arguments.replicas > most:
        raise InvalidInput(f"replicas, the minimum, is {arguments.replicas}; expected at most max_replicas, {most}")
    if arguments.hot_replicas is not None and not 0 <= arguments.hot_replicas <= most:
        raise InvalidInput(f"hot_replicas is {arguments.hot_replicas}; expected from 0 to max_replicas, {most}")
    if arguments.idle_s is not None and not 0 < arguments.idle_s < float("inf"):
        raise InvalidInput(f"idle_s is {arguments.idle_s}; expected seconds, more than 0")


def _unset(before: DeploymentRow | None, row: DeploymentRow) -> dict[str, float]:
    """What was wanted of the deployment before, and is left to its default now; and another number of replicas."""
    if before is None:
        return {}
    wanted = {name: getattr(before, name) for name in SETTINGS}
    unset = {name: value for name, value in wanted.items() if value is not None and getattr(row, name) is None}
    return unset if before.replicas == row.replicas else {"replicas": before.replicas, **unset}


def _check(what: str, name: str) -> None:
    try:
        check_name(what, name)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
