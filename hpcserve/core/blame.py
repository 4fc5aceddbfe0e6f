"""What a failure counts for: whether a deployment waits before its next replica is started, or fails.

* A replica that ends before it is ready counts against its deployment, which waits before the next one is
  started, and fails when its replicas end so again and again;
* one that says that the next would fail in the same way is tried once more, perhaps on a node that is well: a second
  one in a row is enough, while no other is ready;
* one that ends after it was ready makes its deployment wait. A caller's request may have killed it, so it counts only
  while the deployment's replicas answer nothing: when they end so again and again the deployment fails
  (:meth:`Blame.judge`). One that was killed because a request hung, or because nobody waited any more for what it
  ran, like one that was lost with its pilot, counts against nobody;
* when pilots are given up, every deployment that has no replica left fails, since none can be started; not one that is
  paused or idle, as it is to have none.

A deployment that failed is tried again when it is wanted anew. One that failed with the pilots is tried after a while,
too; where it sleeps while nobody asks, it does so again, and whoever asks then wakes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from hpcserve.core.fleetbook import FailDeployment, FleetReplica
from hpcserve.core.losses import Loss, loss_in_words
from hpcserve.core.rollout import FleetDeployment, Restarts
from hpcserve.core.roster import Roster
from hpcserve.types import DeploymentName

MOST_LASTING = 2


class Blame:
    """Counts against the deployments of a roster.

    Args:
        roster: All deployments, pilots and replicas.
        restarts: Makes the back-off of a deployment's fallback.
    """

    def __init__(self, roster: Roster, restarts: Callable[[], Restarts]) -> None:
        self._roster = roster
        self._restarts = restarts

    def replica_lost(self, loss: Loss) -> None:
        """A replica is gone for no fault of its own: it is replaced at once."""
        deployment = self._roster.deployments.get(loss.deployment)
        if deployment is not None:
            deployment.restarts_count += 1
            if not deployment.failed:
                said = loss_in_words(loss.kind, loss.cause, drained=loss.drained)
                deployment.reason, deployment.traceback = f"{loss.replica}: {said}", ""

    def replica_failed(self, replica: FleetReplica, traceback: str, now: float) -> Iterable[FailDeployment]:
        """A replica has ended by itself, or was killed because a request hung."""
        deployment = self._roster.deployments.get(replica.deployment)
        if deployment is None or replica.version != deployment.target:
            return
        deployment.restarts_count += 1
        if not deployment.failed:  # otherwise it is told why the wanted version failed, not its fallback
            deployment.reason = replica.cause
            deployment.traceback = traceback
        if replica.kill:
            return
        if replica.ready:
            deployment.not_before_s = deployment.restarts.crashed(now)
            deployment.unjudged += 1
            return
        deployment.lasting = deployment.lasting + 1 if replica.lasting else 0
        again_s = None if self._is_hopeless(deployment) else deployment.restarts.failed(now)
        if again_s is None:
            yield self._fail(deployment, replica.cause, traceback)
        else:
            deployment.not_before_s = again_s

    def _is_hopeless(self, deployment: FleetDeployment) -> bool:
        """Whether none can be started: one node out of many that is not fit for it proves nothing."""
        return deployment.lasting >= MOST_LASTING and deployment.target not in self._roster.ready().get(
            deployment.name, ()
        )

    def replica_works(self, replica: FleetReplica, now: float) -> None:
        """A replica is ready."""
        if replica.deployment in self._roster.deployments:
            known = self._roster.deployments[replica.deployment]
            known.restarts.succeeded(now)
            known.lasting = 0

    def pilots_failed(self, reason: str, output: str, again_s: float) -> Iterable[FailDeployment]:
        """No pilot will be submitted before ``again_s``. What has no replica fails; what lacks some is told why."""
        here = Counter(replica.deployment for replica in self._roster.alive())
        for deployment in self._roster.deployments.values():
            if deployment.target is None or not deployment.replicas:
                continue
            if not here[deployment.name]:
                yield self._fail(deployment, reason, output, pilots_ended=True, again_s=again_s)
            elif here[deployment.name] < deployment.due and not deployment.failed:
                deployment.reason, deployment.traceback = reason, output

    @property
    def has_unjudged(self) -> bool:
        """Whether replicas that had been ready have ended since the last :meth:`judge`, or the first one is ready."""
        return any(self._is_unjudged(each) for each in self._roster.deployments.values())

    def _is_unjudged(self, deployment: FleetDeployment) -> bool:
        if deployment.unjudged:
            return True
        return deployment.answered is None and deployment.target in self._roster.ready().get(deployment.name, ())

    def judge(self, answered: Mapping[DeploymentName, int] | None) -> Iterable[FailDeployment]:
        """Fails the deployments whose replicas end and do nothing beside.

        Args:
            answered: So many requests each has had answered, counted by the broker; None: nobody can say.
        """
        for deployment in self._roster.deployments.values():
            is_unjudged = self._is_unjudged(deployment)
            crashes, deployment.unjudged = deployment.unjudged, 0
            if answered is None or not is_unjudged:
                continue
            count = answered.get(deployment.name, 0)
            # At the first look at a later version all are the work of others; a new broker counts from 0.
            worked = deployment.answered is not None and count > 0 and count != deployment.answered
            deployment.answered = count
            in_vain = deployment.restarts.in_vain(crashes, worked=worked)
            if in_vain is not None and deployment.target is not None:
                cause = f"{in_vain} replicas in a row ended without a request answered, the last one so: "
                yield self._fail(deployment, cause + deployment.reason, deployment.traceback, crashes=True)

    def _fail(
        self,
        deployment: FleetDeployment,
        reason: str,
        traceback: str,
        *,
        pilots_ended: bool = False,
        crashes: bool = False,
        again_s: float = math.inf,
    ) -> FailDeployment:
        self._roster.note_served()
        deployment.fail(reason, traceback, pilots_ended=pilots_ended, crashes=crashes, again_s=again_s)
        deployment.restarts, deployment.answered = self._restarts(), None  # the fallback has its own
        deployment.lasting = 0
        return FailDeployment(deployment.name, reason, traceback)
