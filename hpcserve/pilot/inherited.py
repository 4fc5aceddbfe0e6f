"""What replicas inherit of the agent's environment: nothing by which a launcher has told the agent who it is. Pure.

An agent, or the daemon that started it on site ``local``, may have been started by ``srun`` or ``mpiexec`` itself.
Ranks that another launcher starts would read there that all of them are one and the same rank; and an MPI library would
look for a launcher that is not its own. How MPI libraries are to behave, other variables of these families say: they
stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Source: PMI-1 and PMI-2 as Slurm, Hydra and Cray PMI set them; PMIx 4 and 5; the orted of Open MPI 4.1; Cray PALS 1.2.
_SAYS_WHO = re.compile(
    r"PMI2?_(RANK|SIZE|FD|PORT|ID|JOBID|SPAWNED|APPNUM|KVS\w*|PROCESS_MAPPING|UNIVERSE_SIZE|LOCAL_\w+|NODEID"
    r"|CONTROL_\w+|SHARED_SECRET)"
    r"|PMIX_(?!MCA_)\w+"
    r"|OMPI_(COMM_WORLD_\w+|UNIVERSE_SIZE|APP_CTX_NUM_PROCS|FIRST_RANKS|NUM_APP_CTX|FILE_LOCATION|ARGV|COMMAND)"
    r"|OMPI_MCA_(ess|ess_\w+|initial_wdir|orte_(ess_\w+|hnp_uri|local_daemon_uri|jobid|app_num|num_nodes))"
    r"|PALS_(APID|APINFO|RANKID|NODEID|DEPTH|LOCAL_\w+|SPOOL_DIR|STARTUP_\w+)"
    r"|SLURM_PROCID"
)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the agent's own environment what its replicas get."""
    return {name: value for name, value in environment.items() if not _SAYS_WHO.fullmatch(name)}
