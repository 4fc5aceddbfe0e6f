"""Where settings come from: command line, environment, site file, default, in this order."""

from hpcserve.config.access import Access, Rules, check_rule, in_words, visibility
from hpcserve.config.environment import (
    cache_dir,
    client_credentials,
    expanded,
    home,
    runtime_dir,
    service_named,
    site_named,
)
from hpcserve.config.files import site_names, site_text
from hpcserve.config.globus import Globus
from hpcserve.config.loading import Directories, directories_of, load_site, read_site, variables_of
from hpcserve.config.queues import own_queues
from hpcserve.config.section import MIB, Section
from hpcserve.config.sections import (
    RETRY_S,
    Budgets,
    Containers,
    Daemon,
    Environments,
    Mpi,
    Network,
    Pilots,
    Queue,
    Recovery,
    Scheduler,
    Site,
)
from hpcserve.config.staging import Collection, Staging

__all__ = [
    "MIB",
    "RETRY_S",
    "Access",
    "Budgets",
    "Collection",
    "Containers",
    "Daemon",
    "Directories",
    "Environments",
    "Globus",
    "Mpi",
    "Network",
    "Pilots",
    "Queue",
    "Recovery",
    "Rules",
    "Scheduler",
    "Section",
    "Site",
    "Staging",
    "cache_dir",
    "check_rule",
    "client_credentials",
    "directories_of",
    "expanded",
    "home",
    "in_words",
    "load_site",
    "own_queues",
    "read_site",
    "runtime_dir",
    "service_named",
    "site_named",
    "site_names",
    "site_text",
    "variables_of",
    "visibility",
]
