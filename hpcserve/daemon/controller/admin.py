"""The administrative calls: what each verb does. The command line is a client that makes them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from hpcserve.core.access import Service, is_named
from hpcserve.core.capacity import limit_in_words, most_replicas
from hpcserve.core.fleetview import Policy
from hpcserve.core.routes import groups_unknown, of_nobody, unknown_endpoint
from hpcserve.core.spelling import nearest, shortened
from hpcserve.core.width import Ranks, misfit
from hpcserve.daemon.access import own_directory
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.gpus import check_gpus
from hpcserve.daemon.controller.guard import Asking, asking_of
from hpcserve.daemon.controller.logs import DAEMON, read_logs
from hpcserve.daemon.controller.plan import servable_of, serving
from hpcserve.daemon.controller.publishing import Publishing, checked
from hpcserve.daemon.controller.view import status_of
from hpcserve.errors import HpcserveError, InvalidInput, NotFound, Overloaded, ProtocolError
from hpcserve.registry.rows import DeploymentRow
from hpcserve.registry.store import Store
from hpcserve.servable.manifest import check_name
from hpcserve.types import DeploymentName, Digest, EndpointName
from hpcserve.wire import admin as verbs
from hpcserve.wire import hub, results
from hpcserve.wire.frames import error_to_wire, from_raw, raw

_log = logging.getLogger(__name__)

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
ASKING = frozenset({"status", "whoami", "describe", "logs", "delivered", "transfers", "results", "destination"})
"""The calls that change little. Programs make them many times a second, and would bury the others in the log."""


class Admin:
    """Answers calls. ``supervisor`` is the pid that ends last when the daemon goes down."""

    def __init__(self, controller: Controller, *, supervisor: int) -> None:
        self._controller = controller
        self._supervisor = supervisor
        self.goes_down = False
        """Whether a caller took the daemon down, and the answer may still be on its way."""
        self._publishing = Publishing(controller)
        self._verbs: dict[str, tuple[type[Any], Callable[[Any, Asking], Awaitable[verbs.Admin]]]] = {
            "publish": (verbs.Publish, self._publishing.publish),
            "share": (verbs.Share, self._publishing.share),
            "deploy": (verbs.Deploy, self.deploy),
            "undeploy": (verbs.Undeploy, self.undeploy),
            "status": (verbs.AskStatus, self.status),
            "whoami": (verbs.WhoAmI, self.whoami),
            "describe": (verbs.Describe, self.describe),
            "logs": (verbs.AskLogs, self.logs),
            "down": (verbs.Down, self.down),
            "delivered": (verbs.Delivered, self.delivered),
            "deliver": (verbs.Deliver, controller.transferring.deliver),
            "destination": (verbs.AskDestination, controller.transferring.destination),
            "transfers": (verbs.AskTransfers, controller.transferring.transfers),
            "https": (verbs.AskHttps, controller.transferring.fetches.https),
            "submission": (verbs.AskSubmission, controller.transferring.submissions.submission),
            "submitted": (verbs.Submitted, controller.transferring.submissions.submitted),
            "not-submitted": (verbs.NotSubmitted, controller.transferring.submissions.not_submitted),
            "results": (results.AskResults, controller.results.listed),
            "discard": (results.Discard, controller.results.discard),
            "cancel-transfer": (verbs.CancelTransfer, controller.transferring.cancel),
        }

    def close(self) -> None:
        """Gives up what takes long."""
        self._publishing.close()

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
        if call.verb not in self._verbs:
            raise ProtocolError(f"no call {shortened(call.verb)}{nearest(call.verb, self._verbs)}")
        kind, do = self._verbs[call.verb]
        return await do(from_raw(call.body, kind), asking_of(call))

    async def deploy(self, arguments: verbs.Deploy, asking: Asking) -> verbs.Deployed:
        """Serves a version at an endpoint; one that is served there already is replaced, replica by replica."""
        name, version = await self._resolve(arguments.servable, asking)
        await self._controller.guard.check(asking, "deploy", self._controller.ownership.servable(name), name)
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
        checked(partial(check_name, "an endpoint", endpoint))
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
            owner=asking.caller.principal,
        )
        before = next(
            (each for each in await self._controller.storage.do(Store.deployments) if each.name == row.name), None
        )
        if before is not None:  # it stays its owner's; who may not even know of it learns that the name is taken
            await self._administer(DeploymentName(before.name), asking, f"the deployment at endpoint {endpoint}")
            row = msgspec.structs.replace(row, owner=before.owner)
        await self._controller.storage.do(Store.put_deployment, row)
        self._controller.serve(row, servable_of(servable))
        await self._controller.wait_for_routes()  # before the answer: whoever gets it may call the endpoint
        unset = _unset(before, row)
        return verbs.Deployed(
            deployment=row.name, endpoint=endpoint, version=version, replicas=row.replicas, unset=unset
        )

    async def _resolve(self, reference: str, asking: Asking) -> tuple[str, Digest]:
        """The version that is meant, of those that the caller may know of."""
        hidden = self._controller.hidden_servables(asking)
        name = reference.partition("@")[0]
        if name in hidden:
            await self._controller.guard.refuse_hidden(asking, "deploy", name)
        return await self._controller.storage.do(Store.resolve, reference, hidden)

    async def _administer(self, name: DeploymentName, asking: Asking, called: str) -> None:
        thing = self._controller.ownership.deployment(name)
        await self._controller.guard.check(asking, "administer", thing, called)

    async def undeploy(self, arguments: verbs.Undeploy, asking: Asking) -> verbs.Undeployed:
        """Serves no longer at an endpoint."""
        name = await self._deployment(arguments.endpoint, asking)
        await self._administer(name, asking, f"the deployment at endpoint {arguments.endpoint}")
        await self._controller.storage.do(Store.remove_deployment, name)
        self._controller.unserve(name)
        await self._controller.wait_for_routes()
        return verbs.Undeployed(endpoint=arguments.endpoint)

    async def status(self, arguments: verbs.AskStatus, asking: Asking) -> verbs.Status:
        """Everything there is to see for the caller."""
        return await status_of(self._controller, asking)

    async def whoami(self, arguments: verbs.WhoAmI, asking: Asking) -> verbs.Me:
        """Who calls, and what the site's lists let him do."""
        identity = asking.asker.identity
        return verbs.Me(
            name=identity.name,
            id=identity.id,
            domain=identity.domain,
            groups=identity.groups,
            key=identity.key,
            may=self._controller.guard.listed(asking),
            account=identity.account,
            groups_count=self._controller.groups_count,
            groups_age_s=self._controller.site.globus.groups_cache_s if self._controller.groups_count else 0.0,
        )

    async def describe(self, arguments: verbs.Describe, asking: Asking) -> verbs.Described:
        """The methods of what is served at an endpoint: of the version that answers now."""
        name = await self._deployment(arguments.endpoint, asking)
        servable = serving(self._controller.fleet, name, self._controller.servables)
        return verbs.Described(
            endpoint=arguments.endpoint,
            deployment=name,
            version=servable.version.digest,
            manifest=msgspec.to_builtins(servable.manifest),
        )

    async def logs(self, arguments: verbs.AskLogs, asking: Asking) -> verbs.Logs:
        """The end of log files: of replicas for those who see what they ran, all others for administrators."""
        controller, name = self._controller, arguments.name
        administers = controller.guard.administers(asking)
        if not administers and name in DAEMON:  # a pilot's, though: there is none for who may not read it
            await controller.guard.check(asking, "administer", Service(), f"the log of {name}")

        def may_read(log: str) -> bool:
            return administers or controller.guard.sees(asking, controller.ownership.ran(log))

        replicas = [each.replica for each in controller.fleet.replicas.values()]
        read = partial(
            read_logs,
            controller.site.shared_dir / "logs",
            arguments,
            writers=[*replicas, *controller.pilots.jobs],
            deployments=[each for each in controller.served if controller.sees(asking, each)],
            may_read=may_read,
        )
        try:
            found = await asyncio.to_thread(read)
        except NotFound:
            if name in controller.served or name in controller.pilots.jobs or controller.ownership.has_run(name):
                await controller.guard.refuse_hidden(asking, "see", f"the log of {name}")
            raise
        ran = controller.ownership.ran(found.logs[0].name if found.logs else "")
        thing = controller.ownership.deployment(DeploymentName(name)) if name in controller.served else ran
        await controller.guard.note(asking, "see", f"the log of {name}", controller.guard.judge(asking, "see", thing))
        return found

    async def delivered(self, arguments: verbs.Delivered, asking: Asking) -> verbs.Noted:
        """A caller has staged results of its own."""
        owner = own_directory(asking.asker.identity)
        known = await self._controller.staged.delivered(owner, arguments.paths)
        await self._controller.transferring.fetched(owner, arguments.paths)
        return verbs.Noted(known=known)

    async def down(self, arguments: verbs.Down, asking: Asking) -> verbs.GoingDown:
        """Takes the daemon down. The supervisor is told before the caller, should this process end.

        While pilots are drained the daemon is there as ever; the controller goes when none is left.
        """
        controller = self._controller
        await controller.guard.check(asking, "administer", Service(), "the service")
        controller.parting.bid(arguments.pilots)
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

    async def _deployment(self, endpoint: str, asking: Asking) -> DeploymentName:
        """The deployment at an endpoint; one that the caller may not know of is not there."""
        controller = self._controller
        known = {row.endpoint: name for name, row in controller.served.items()}
        name = known.get(EndpointName(endpoint))
        if name is not None:
            thing = controller.ownership.deployment(name)
            decision = controller.guard.judge(asking, "see", thing)
            await controller.guard.note(asking, "see", endpoint, decision)
            if decision.allowed:
                return name
        if asking.caller.groups is None and controller.groups_count:
            raise groups_unknown(endpoint)
        seen = [each for each, name in known.items() if controller.sees(asking, name)]
        named = is_named(controller.guard.policy, asking.caller)
        raise unknown_endpoint(endpoint, seen) if seen or named else of_nobody(endpoint)


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
