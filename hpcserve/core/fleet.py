"""The controller's books: what was wanted, what agents and the scheduler said, what was therefore ordered.

Events go in with the time, actions come out for the controller to carry out. Which replicas and pilots there
should be is decided in :mod:`hpcserve.core.deployments`, and here stands what that needs to know. What an event
means is decided in the parts of the books:

* :mod:`hpcserve.core.roster`: who there is, and which versions answer;
* :mod:`hpcserve.core.wishes`: what users and the demand want of each deployment, and its share where all want too much;
* :mod:`hpcserve.core.pilotlife` and :mod:`hpcserve.core.replicalife`: what was said of pilots and of replicas;
* :mod:`hpcserve.core.blame`: what a failure counts for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from hpcserve.core import fleetview as rules
from hpcserve.core.blame import Blame
from hpcserve.core.deployments import reconcile
from hpcserve.core.fleetbook import Action, FleetPilot, FleetReplica, PilotOrders, ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, PilotPhase, Policy, RetireReplica, StartReplica, SubmitPilot
from hpcserve.core.pilotlife import PilotLife
from hpcserve.core.replicalife import ReplicaLife
from hpcserve.core.rollout import PilotRestarts, Restarts, Version
from hpcserve.core.roster import Roster
from hpcserve.core.scaling import Demand, Scale
from hpcserve.core.shapes import Shape
from hpcserve.core.succession import Succession
from hpcserve.core.wishes import Wishes
from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId


class Fleet:
    """All deployments, pilots and replicas of one controller.

    Args:
        policy: The site's limits.
        seed: Makes ids unlike those of other controllers of the same service.
        restarts: Makes the back-off of one deployment.
        pilot_restarts: The back-off of pilots that end at once.
        succession: What is known of waits in the queue and of setups.

    Attributes:
        longest_s: The longest that a request of a deployment has taken of late.
        is_draining: Nothing is wanted any more: replicas finish what they run, and pilots end that run nothing.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        seed: str,
        restarts: Callable[[], Restarts],
        pilot_restarts: PilotRestarts,
        succession: Succession,
    ) -> None:
        self.policy = policy
        self.succession = succession
        self.longest_s: Mapping[DeploymentName, float] = {}
        self.is_draining = False
        self._roster = roster = Roster()
        self.deployments, self.pilots, self.replicas = roster.deployments, roster.pilots, roster.replicas
        self._wishes = Wishes(roster, restarts, succession)
        self._blame = blame = Blame(roster, restarts)
        self._replica_life = ReplicaLife(
            roster, blame, policy=policy, pilot_restarts=pilot_restarts, succession=succession
        )
        self._pilot_life = PilotLife(
            roster, blame, self._replica_life, policy=policy, restarts=pilot_restarts, succession=succession
        )
        self._seed = seed
        self._next_number = 1

    # --- what is wanted -------------------------------------------------------------------------------

    def want(self, name: DeploymentName, version: Version, replicas: int, scale: Scale | None = None) -> None:
        """A deployment is to be served, from now on with this version.

        Args:
            name: The deployment.
            version: Of the replicas.
            replicas: How many there are to be.
            scale: Their number follows the demand instead.
        """
        self._wishes.want(name, version, replicas, scale)
        self._pilot_life.forgive()

    def demand(self, counted: Mapping[DeploymentName, Demand], now: float) -> bool:
        """The broker has counted what comes to each deployment. True: another number of replicas follows from it."""
        return self._wishes.demand(counted, self.policy, now)

    def recall(self) -> None:
        """All that is wanted now was wanted before this controller began, and may have answered."""
        self._wishes.recall()

    def remember(self, name: DeploymentName, served: Version, failure: str) -> None:
        """What an earlier controller saw of a wanted deployment.

        Args:
            name: The deployment.
            served: The version that served last.
            failure: Why the wanted version cannot be started; empty if it may be tried.
        """
        self._wishes.remember(name, served, failure)

    def unwant(self, name: DeploymentName) -> None:
        """A deployment is not to be served any more, and none of its replicas counts, should it be wanted again."""
        self._wishes.unwant(name)

    # --- what an earlier controller left --------------------------------------------------------------

    def has_named(self, replica: ReplicaId) -> bool:
        """Whether it is one of ours, whatever became of it, and not of an earlier controller."""
        return replica.rpartition("-")[0].endswith(f"-{self._seed.rstrip('-')}")

    def adopt_pilot(self, pilot: PilotId, slots: int, now: float) -> None:
        """A pilot that an earlier controller submitted. Whether it still runs, the scheduler will say."""
        self.pilots[pilot] = FleetPilot(pilot=pilot, slots=slots, idle_since_s=now, phase="unknown", adopted=True)

    def shaped(self, pilot: PilotId, shape: Shape) -> None:
        """A pilot has other nodes, or another walltime, than any."""
        known = self.pilots.get(pilot)
        if known is not None:
            known.slots = known.full_slots = shape.nodes * self.policy.slots // self.policy.nodes
            known.walltime_s = shape.walltime_s

    def adopt_replica(self, replica: ReplicaId, deployment: DeploymentName, version: Version, pilot: PilotId) -> None:
        """A replica that an earlier controller ordered.

        It counts as seen: one that the agent does not report has ended and was forgotten there, or was never begun.
        Either way it is replaced; an agent begins no replica twice.
        """
        self.replicas[replica] = FleetReplica(
            replica=replica, deployment=deployment, version=version, pilot=pilot, seen=True
        )

    # --- what the scheduler says of pilots ------------------------------------------------------------

    def job_seen(
        self, pilot: PilotId, phase: PilotPhase, waits_for: str = "", *, starts_s: float | None = None
    ) -> None:
        """The scheduler says that a pilot is queued, runs or is suspended, or (``unknown``) nothing about it.

        Args:
            pilot: The pilot.
            phase: Where it is.
            waits_for: Why it does not run, in words.
            starts_s: When it will, on our clock, as the scheduler guesses.
        """
        self._pilot_life.seen(pilot, phase, waits_for, starts_s)

    def not_submitted(
        self, pilot: PilotId, cause: str, now: float, *, lasting: bool, pause_s: float | None = None
    ) -> tuple[Action, ...]:
        """A pilot was not submitted.

        Args:
            pilot: The pilot.
            cause: Why, in words.
            now: Monotonic seconds.
            lasting: The same again and again would be a reason to give up.
            pause_s: Otherwise the next one is not submitted before so long; 0: it is at once. The pause that becomes
                longer with each refusal is kept where it is the longer one.
        """
        return tuple(self._pilot_life.not_submitted(pilot, cause, now, lasting=lasting, pause_s=pause_s))

    def job_ended(
        self, pilot: PilotId, cause: str, output: str, now: float, *, kind: LossKind = "crashed"
    ) -> tuple[Action, ...]:
        """A pilot has ended.

        Args:
            pilot: The pilot.
            cause: How, in words.
            output: The end of what it printed.
            now: Monotonic seconds.
            kind: The same as ``cause`` in one term.
        """
        return tuple(self._pilot_life.ended(pilot, cause, output, now, kind))

    def requeued(self, pilot: PilotId, cause: str, now: float, *, kind: LossKind) -> tuple[Action, ...]:
        """The scheduler has put a pilot back into the queue: none of its replicas lives any more, or counts."""
        return tuple(self._pilot_life.requeued(pilot, cause, now, kind))

    # --- what agents and the broker say ---------------------------------------------------------------

    def reported(
        self,
        pilot: PilotId,
        said: Iterable[ReplicaSaid],
        *,
        ends_s: float,
        leaving: bool,
        now: float,
        slots: int | None = None,
        lost_nodes: Iterable[str] = (),
        host: str = "",
    ) -> tuple[Action, ...]:
        """An agent's report came.

        Args:
            pilot: Its pilot.
            said: Of all its replicas.
            ends_s: When its walltime is over, on our clock. Of all that its incarnation says the earliest counts.
            leaving: It is about to end.
            now: Monotonic seconds.
            slots: How many slots all its usable nodes have together.
            lost_nodes: Those of its nodes that are gone.
            host: The node that the agent runs on.
        """
        return tuple(
            self._pilot_life.reported(
                pilot, said, ends_s=ends_s, leaving=leaving, now=now, slots=slots, lost_nodes=lost_nodes, host=host
            )
        )

    def away(self, pilot: PilotId, now: float, for_s: float = 0.0) -> None:
        """The agent of a pilot cannot be reached, and could not for so long.

        Replicas of it that are missed at present count as unreachable.
        """
        self._pilot_life.away(pilot, now, for_s)

    def unreachable(self, replica: ReplicaId, cause: str, now: float, *, for_s: float = 0.0) -> bool:
        """A replica cannot be reached: others do its work, and should it come back it is ended.

        Why that is, the end of its pilot will tell, or its agent. While its agent is there, on the same host, and sees
        that it lives, it may be in a call: then nothing follows before ``orphan_s``.

        Returns:
            Whether that is news.
        """
        return self._replica_life.unreachable(replica, cause, now, for_s=for_s)

    def idle(self, replica: ReplicaId) -> None:
        """The broker says that a retiring replica holds nothing any more."""
        self._replica_life.idle(replica)

    def hung(self, replica: ReplicaId, cause: str) -> None:
        """A replica is to be killed, and replaced at once."""
        self._replica_life.hung(replica, cause)

    def unwanted(self, replica: ReplicaId) -> bool:
        """A replica runs what nobody waits for: it is to be killed, and replaced at once. False: it is about to end."""
        return self._replica_life.unwanted(replica)

    @property
    def has_unjudged(self) -> bool:
        """Whether replicas that had been ready have ended since the last :meth:`judge`, or the first one is ready."""
        return self._blame.has_unjudged

    def judge(self, answered: Mapping[DeploymentName, int] | None) -> tuple[Action, ...]:
        """Whether a deployment whose replicas end does anything beside: where not, it fails in the end.

        Args:
            answered: So many requests each has had answered, counted by the broker; None: nobody can say.
        """
        return tuple(self._blame.judge(answered))

    # --- what follows ---------------------------------------------------------------------------------

    def step(self, now: float) -> tuple[Action, ...]:
        """What is to be done now. It counts as done: asked again at once, the answer is empty."""
        self._roster.note_served()
        self._wishes.try_again(now)
        self._wishes.keep_the_unmeasured()
        self._wishes.share(self.policy, now)
        buried = tuple(self._replica_life.bury())
        for pilot in {replica.pilot for replica in self._roster.alive()} & self.pilots.keys():
            self.pilots[pilot].idle_since_s = now
        for known in self.pilots.values():
            self._replica_life.take_back(known, now)
        self._close_pilots(now)
        changes = self._reconcile(now)
        if self._pilot_life.tries_for_who_has_none(now):
            changes += self._reconcile(now)
        return (*buried, *changes)

    def _reconcile(self, now: float) -> tuple[rules.Change, ...]:
        changes = reconcile(self._view(), now)
        for change in changes:
            self._apply(change, now)
        return changes

    def _close_pilots(self, now: float) -> None:
        """Decides of which pilots the end is near. It stays so, though waits and setups should become shorter."""
        longest_s = max(self.longest_s.values(), default=0.0)
        for pilot in self.pilots.values():
            lead_s = self.succession.lead_s(longest_s, pilot.walltime_s)
            if pilot.ends_s is not None and pilot.ends_s - now <= lead_s:
                pilot.lead_s = max(pilot.lead_s, lead_s)

    def _apply(self, change: rules.Change, now: float) -> None:
        if isinstance(change, SubmitPilot):
            self._next_number += 1
            self.pilots[change.pilot] = FleetPilot(
                pilot=change.pilot,
                slots=self.policy.slots,
                lacking=change.lacking,
                needs_nodes=change.nodes,
                least_nodes=change.least_nodes,
                full=change.full,
                idle_since_s=now,
                submitted_s=now,
            )
        elif isinstance(change, CancelPilot):
            self.pilots[change.pilot].phase = "leaving"
            self.pilots[change.pilot].asked = True
        elif isinstance(change, StartReplica):
            self._next_number += 1
            self.replicas[change.replica] = FleetReplica(
                replica=change.replica,
                deployment=change.deployment,
                version=self._target(change),
                pilot=change.pilot,
                ordered_s=now,
            )
            self._pilot_life.came_for(self.deployments[change.deployment])
        elif isinstance(change, RetireReplica):
            self.replicas[change.replica].state = "retiring"
        else:
            self.replicas[change.replica].state = "stopping"

    def _target(self, start: StartReplica) -> Version:
        target = self.deployments[start.deployment].target
        assert target is not None, "none is started where none can be"
        return target

    @property
    def is_drained(self) -> bool:
        """Whether it was draining, and no pilot is left."""
        return self.is_draining and not self.pilots

    def _view(self) -> rules.View:
        policy, wanted = self.policy, self._roster.wanted_view(self.policy.replicas_per_gpu)
        if self.is_draining:
            policy, wanted = replace(policy, max_pilots=0, idle_s=0.0), tuple(replace(w, replicas=0) for w in wanted)
        return rules.View(
            policy=policy,
            wanted=wanted,
            pilots=tuple(self._pilot_view(pilot) for pilot in self.pilots.values()),
            replicas=self._roster.replicas_view(self.policy.replicas_per_gpu),
            seed=self._seed,
            next_number=self._next_number,
            submit_not_before_s=self._pilot_life.submit_not_before_s,
            submit_at_most=self._pilot_life.submit_at_most,
        )

    def _pilot_view(self, pilot: FleetPilot) -> rules.Pilot:
        here = {each.deployment for each in self._roster.alive() if each.pilot == pilot.pilot}
        longest_s = max((self.longest_s.get(name, 0.0) for name in here), default=0.0)
        return rules.Pilot(
            pilot=pilot.pilot,
            phase=pilot.phase,
            slots=pilot.slots,
            size=pilot.full_slots or self.policy.slots,
            reported=pilot.reported,
            idle_since_s=pilot.idle_since_s,
            ends_s=pilot.ends_s,
            away_since_s=pilot.away_since_s,
            lead_s=pilot.lead_s,
            drain_s=self.succession.drain_s(longest_s, pilot.walltime_s),
        )

    # --- what others are told -------------------------------------------------------------------------

    def end_pilots(self) -> None:
        """All pilots are to end: their agents are told so, whether the scheduler can be or not."""
        for pilot in self.pilots.values():
            pilot.phase, pilot.asked = "leaving", True

    def orders(self, pilot: PilotId) -> PilotOrders:
        """All that the agent of ``pilot`` is to be told at this moment."""
        return self._roster.orders(pilot)

    def serving(self, name: DeploymentName) -> Version:
        """The version of a wanted deployment whose methods callers see."""
        return self._roster.serving(name)

    def versions(self) -> set[tuple[DeploymentName, str]]:
        """Each version of a deployment that is wanted, or of which a replica may run."""
        return self._roster.versions()

    def resting(self) -> set[ReplicaId]:
        """The replicas that get no new work: they are to end or be killed, or have other methods than callers see."""
        return self._roster.resting()

    def giving_back(self) -> set[ReplicaId]:
        """The replicas that are to end, and what they have not begun others can do: they have the same methods."""
        return self._roster.giving_back()

    def ends(self) -> dict[ReplicaId, float]:
        """Of each replica whose pilot's end is known, when it has to have finished, on our clock, in whole seconds."""
        margin_s = self.succession.margin_s
        ends_s = {pilot.pilot: pilot.ends_s for pilot in self.pilots.values()}
        found = {each.replica: ends_s.get(each.pilot) for each in self._roster.alive()}
        return {replica: float(math.floor(end_s - margin_s)) for replica, end_s in found.items() if end_s is not None}
