"""How many replicas fit into a site, and why a deployment lacks some of its own. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from hpcserve.core.fleetbook import FleetReplica
from hpcserve.core.fleetview import Policy
from hpcserve.core.rollout import FleetDeployment
from hpcserve.core.room import Load, Room, packed, slots_of
from hpcserve.core.spans import counted
from hpcserve.core.width import ONE, Ranks, Width, misfit, width, width_of
from hpcserve.types import DeploymentName

ONE_RANK = Ranks()
MOST_NAMES = 4
"""Of so many deployments a message says what each one holds."""


def most_slots(policy: Policy) -> int:
    """How many slots the replicas of all deployments together can have."""
    return policy.most_pilots * policy.slots


def most_replicas(policy: Policy, ranks: Ranks = ONE_RANK) -> int:
    """How many replicas of these ranks fit into all pilots, if there are no others."""
    return policy.most_pilots * Room(policy.slots, policy.node_slots).count(width_of(ranks, policy.replicas_per_gpu))


def limit_in_words(policy: Policy, ranks: Ranks = ONE_RANK) -> str:
    """Where that number comes from."""
    pilots = f"pilots.max_pilots {policy.max_pilots}"
    if policy.most_pilots < policy.max_pilots:
        pilots = f"max_running {policy.most_pilots} of the queue"
    nodes = f" × pilots.nodes {policy.nodes}" if policy.nodes > 1 else ""
    slots = policy.slots // policy.nodes
    of = _of_slots(policy, ranks)
    count = counted(most_replicas(policy, ranks), "replica") if of else f"{most_replicas(policy)} replicas"
    fit = "fits" if count == "1 replica" else "fit"
    return f"at most {count}{of} {fit} into this site: {pilots}{nodes} × pilots.slots {slots}"


def _of_slots(policy: Policy, ranks: Ranks) -> str:
    slots = width(ranks, policy.replicas_per_gpu)
    return "" if slots == 1 else f" of {slots} slots"


def lack_of_room(
    policy: Policy,
    mine: FleetDeployment,
    deployments: Collection[FleetDeployment],
    replicas: Collection[FleetReplica],
    hidden: Collection[DeploymentName] = (),
) -> str:
    """Why replicas of ``mine`` are not even started; empty where it has all, or room for them is made or coming.

    Args:
        policy: The site's limits.
        mine: The deployment.
        deployments: All that are wanted, ``mine`` too.
        replicas: All whose processes may exist.
        hidden: Deployments that are not named to who asks.
    """
    held = Counter(each.deployment for each in replicas)
    if mine.target is None or held[mine.name] >= mine.due:
        return ""
    if never := misfit(mine.ranks, policy):
        return never
    if mine.replicas > most_replicas(policy, mine.ranks):
        return f"{limit_in_words(policy, mine.ranks)}; deploy it with fewer replicas"
    wanted = Counter[Width]()
    for each in deployments:
        if each.target is not None:
            wanted[width_of(each.ranks, policy.replicas_per_gpu)] += each.due
    used = Counter(width_of(each.version.ranks, policy.replicas_per_gpu) for each in replicas)
    used[width_of(mine.ranks, policy.replicas_per_gpu)] += 1
    others = Counter({name: count for name, count in held.items() if name != mine.name})
    if _has_room(policy, wanted) or _has_room(policy, used) or not others:
        return ""
    wide = {each.deployment: _of_slots(policy, each.version.ranks) for each in replicas}
    most = others.most_common(MOST_NAMES)
    holders = ", ".join(f"{'another' if name in hidden else name} has {count}{wide[name]}" for name, count in most)
    more = ", …" if len(others) > MOST_NAMES else ""
    return f"{limit_in_words(policy, mine.ranks)}, and {holders}{more}; undeploy one, or deploy with fewer replicas"


def _has_room(policy: Policy, load: Load) -> bool:
    """Whether all pilots together hold so many replicas, as these are packed."""
    if slots_of(load) > most_slots(policy):
        return False
    if all(each == ONE for each, count in load.items() if count):
        return True
    return not packed(load, [Room(policy.slots, policy.node_slots) for _ in range(policy.most_pilots)])


def _width(policy: Policy, ranks: Ranks) -> int:
    return width(ranks, policy.replicas_per_gpu)


def shared_room(policy: Policy, mine: FleetDeployment, deployments: Collection[FleetDeployment]) -> str:
    """Why ``mine`` is to have fewer replicas than it wants; empty where it is to have all.

    Args:
        policy: The site's limits.
        mine: The deployment.
        deployments: All that are wanted, ``mine`` too.
    """
    if mine.due >= mine.replicas:
        return ""
    sharing = [each for each in deployments if each.target is not None and each.replicas]
    promised = sum(each.promised for each in sharing)
    of_which = f", of which {promised} {'is' if promised == 1 else 'are'} promised," if promised else ""
    room = f"room for {counted(most_replicas(policy), 'replica')}{of_which}"
    if any(_width(policy, each.ranks) > 1 for each in sharing):
        slots = sum(each.promised * _width(policy, each.ranks) for each in sharing)
        of_which = f", of which {slots} {'is' if slots == 1 else 'are'} promised," if slots else ""
        room = f"room for {counted(most_slots(policy), 'slot')}{of_which}"
    return f"it wants {mine.replicas}, and {room} is shared by {counted(len(sharing), 'deployment')}"
