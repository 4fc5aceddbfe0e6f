"""Between messages and the site file, and what :mod:`hpcserve.core.access` decides by."""

from __future__ import annotations

from collections.abc import Iterable

from hpcserve.config import Site
from hpcserve.core.access import Caller, Deployment, Policy, Rules, Servable, names_group
from hpcserve.core.sitepaths import caller_directory
from hpcserve.wire.hub import AccessRule, Identity


def policy_of(site: Site) -> Policy:
    """The site's lists, with what holds where it says nothing."""
    lists = {name: Rules(each.allowed(site.auth), each.deny) for name, each in site.access.lists().items()}
    return Policy(**lists)


def groups_count(site: Site, visible_to: Iterable[str] = ()) -> bool:
    """Whether it matters who is in which group of Globus: to the site file, or to these rules of who sees servables."""
    if site.auth != "globus" or not site.globus.ask_groups:
        return False
    rules = [rule for each in policy_of(site) for rule in (*each.allow, *each.deny)]
    return bool(site.globus.groups) or any(map(names_group, rules)) or any(map(names_group, visible_to))


def caller_of(identity: Identity) -> Caller:
    """What decides of what somebody may do."""
    return Caller(
        identity.name,
        identity.id,
        identity.domain,
        None if identity.groups is None else frozenset(identity.groups),
        frozenset(identity.linked),
        frozenset(identity.linked_names),
    )


def own_directory(identity: Identity) -> str:
    """The name of the directory with somebody's staged results: with Globus its id, which never changes."""
    return caller_directory(identity.id or identity.name)


def rule_of(deployment: Deployment) -> AccessRule:
    """As the broker is told."""
    return AccessRule(deployment.owner, deployment.servable.owner, deployment.servable.visible_to)


def deployment_of(rule: AccessRule) -> Deployment:
    """As the broker was told."""
    return Deployment(rule.owner, Servable(rule.servable_owner, rule.visible_to))
