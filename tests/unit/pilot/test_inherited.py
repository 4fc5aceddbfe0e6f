"""Which of the agent's variables its replicas get."""

from __future__ import annotations

import pytest

from hpcserve.pilot.inherited import inherited
from hpcserve.replica.rank import RANK_VARIABLES, rank_of

OF_LAUNCHERS = (
    *RANK_VARIABLES,
    *("PMI_SIZE", "PMI_FD", "PMI_PORT", "PMI_ID", "PMI_JOBID", "PMI_SPAWNED", "PMI_LOCAL_RANK", "PMI_CONTROL_PORT"),
    *("PMIX_NAMESPACE", "PMIX_SERVER_URI41", "PMIX_SECURITY_MODE", "PMIX_GDS_MODULE"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_UNIVERSE_SIZE", "OMPI_APP_CTX_NUM_PROCS"),
    *("OMPI_MCA_ess", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_vpid", "OMPI_MCA_orte_hnp_uri"),
    *("PALS_APID", "PALS_LOCAL_RANKID", "PALS_NODEID"),
)
OTHERS = (
    *("PATH", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "MY_PMI_RANK", "PMI_RANKS"),
    *("OMPI_MCA_btl", "OMPI_MCA_orte_tmpdir_base", "OMPI_ALLOW_RUN_AS_ROOT", "PMIX_MCA_gds", "PMI_MMAP_SYNC_WAIT_TIME"),
)


@pytest.mark.parametrize("name", OF_LAUNCHERS)
def test_who_the_agent_is_its_replicas_are_not_told(name: str) -> None:
    assert inherited({name: "3", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("name", OTHERS)
def test_all_else_they_get(name: str) -> None:
    assert inherited({name: "3"}) == {name: "3"}


@pytest.mark.parametrize("stale", RANK_VARIABLES)
@pytest.mark.parametrize("own", RANK_VARIABLES)
def test_what_their_own_launcher_says_is_believed(stale: str, own: str) -> None:
    assert rank_of(["--ranks", "0:1:2"], {**inherited({stale: "2"}), own: "1"}).rank == 1
