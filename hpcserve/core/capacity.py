"""How many replicas fit into a site, and why a deployment lacks some of its own. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from hpcserve.core.deployments import Policy
from hpcserve.core.fleetbook import FleetReplica
from hpcserve.core.rollout import FleetDeployment
from hpcserve.core.spans import counted

MOST_NAMES = 4
"""Of so many deployments a message says what each one holds."""


def most_replicas(policy: Policy) -> int:
    """How many replicas all deployments together can have."""
    return policy.most_pilots * policy.slots


def limit_in_words(policy: Policy) -> str:
    """Where that number comes from."""
    pilots = f"pilots.max_pilots {policy.max_pilots}"
    if policy.most_pilots < policy.max_pilots:
        pilots = f"max_running {policy.most_pilots} of the queue"
    nodes = f" × pilots.nodes {policy.nodes}" if policy.nodes > 1 else ""
    slots = policy.slots // policy.nodes
    return f"at most {most_replicas(policy)} replicas fit into this site: {pilots}{nodes} × pilots.slots {slots}"


def lack_of_room(
    policy: Policy,
    mine: FleetDeployment,
    deployments: Collection[FleetDeployment],
    replicas: Collection[FleetReplica],
) -> str:
    """Why replicas of ``mine`` are not even started; empty where it has all, or room for them is made or coming.

    Args:
        policy: The site's limits.
        mine: The deployment.
        deployments: All that are wanted, ``mine`` too.
        replicas: All whose processes may exist.
    """
    held = Counter(each.deployment for each in replicas)
    most = most_replicas(policy)
    if mine.target is None or held[mine.name] >= mine.due:
        return ""
    if mine.replicas > most:
        return f"{limit_in_words(policy)}; deploy it with fewer replicas"
    wanted = sum(each.due for each in deployments if each.target is not None)
    others = Counter({name: count for name, count in held.items() if name != mine.name})
    if wanted <= most or held.total() < most or not others:
        return ""
    holders = ", ".join(f"{name} has {count}" for name, count in others.most_common(MOST_NAMES))
    more = ", …" if len(others) > MOST_NAMES else ""
    return f"{limit_in_words(policy)}, and {holders}{more}; undeploy one, or deploy with fewer replicas"


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
    return f"it wants {mine.replicas}, and {room} is shared by {counted(len(sharing), 'deployment')}"
