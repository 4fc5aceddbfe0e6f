"""What srun's exit code and its own lines say of a replica's end; the lines are those of Slurm 22.05."""

import pytest

from hpcserve.cluster.hostlist import expanded
from hpcserve.cluster.launchers import MpiexecLauncher, ProcessLauncher, SrunLauncher
from hpcserve.cluster.seam import LaunchEnd
from hpcserve.wire.launch import MpiRules

MPI = MpiRules()
KILLED = "srun: error: node2: task 0: Killed"
STEP = "slurmstepd-node2: error: *** STEP 1.3 ON node2 CANCELLED AT 2026-01-21T19:12:35"
OVER = "slurmstepd-node1: error: StepId=5.0 exceeded memory limit (682979328 > 209715200), being killed"
OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
TASK_OOM = "srun: error: node2: task 0: Out Of Memory"
LOST = "srun: error: Node failure on node2"
GONE = "srun: error: Unable to create step for job 1: Requested node configuration is not available"
AWAY = "srun: error: Unable to confirm allocation for job 2: Socket timed out on send/recv operation"

RANK_EXITS = "srun: error: node1: task 1: Exited with exit code 3"
RANK_DIES = "srun: error: node1: task 1: Killed"
OTHERS_END = "srun: error: node1: task 0: Terminated\nsrun: error: node2: tasks 2-3: Terminated"
ABORT = "Abort(5) on node 1 (rank 1 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 5) - process 1"
TASKS_OOM = "srun: error: node1: tasks 0-1: Out Of Memory"
SSH = "ssh: connect to host node2 port 22: No route to host"
LOST_TWO = "srun: error: Node failure on node[2-3]"


@pytest.mark.parametrize(
    ("exit_code", "output", "expected"),
    [
        (0, "", LaunchEnd(0)),
        (3, "srun: error: node2: task 0: Exited with exit code 3", LaunchEnd(3)),
        (139, "srun: error: node2: task 0: Segmentation fault", LaunchEnd(-11)),
        (137, KILLED, LaunchEnd(-9)),
        (-9, "", LaunchEnd(-9)),
        (255, "", LaunchEnd(255)),
        (0, f"hello\n{LOST}", LaunchEnd(0, "node failed", LOST, lost_node=True, lost_nodes=("node2",))),
        (1, GONE, LaunchEnd(1, "node failed", GONE, lost_node=True)),
        (1, AWAY, LaunchEnd(1, "unreachable", AWAY)),
        (137, f"{OVER}\n{STEP} ***\n{KILLED}", LaunchEnd(-9, "out of memory", OVER)),
        (137, f"{OOM}\n{KILLED}", LaunchEnd(-9, "out of memory", OOM)),
        (1, TASK_OOM, LaunchEnd(1, "out of memory", TASK_OOM)),
        (137, f"{STEP} ***", LaunchEnd(-9, "cancelled", f"{STEP} ***")),
        (137, f"{STEP} DUE TO TIME LIMIT ***", LaunchEnd(-9, "walltime", f"{STEP} DUE TO TIME LIMIT ***")),
        (137, f"{STEP} DUE TO PREEMPTION ***", LaunchEnd(-9, "preempted", f"{STEP} DUE TO PREEMPTION ***")),
        (1, f"the servable prints: {LOST}", LaunchEnd(1)),
        # One rank of four ends badly, and by --kill-on-bad-exit the others.
        (143, f"{RANK_EXITS}\n{STEP} ***\n{OTHERS_END}", LaunchEnd(3)),
        (143, f"{RANK_DIES}\n{STEP} ***\n{OTHERS_END}", LaunchEnd(-9)),
        (137, f"{ABORT}\n{STEP} ***\nsrun: error: node1: tasks 0-1: Killed", LaunchEnd(-9)),
        (137, "srun: error: node1: tasks 0-1: Out Of Memory", LaunchEnd(-9, "out of memory", TASKS_OOM)),
        (137, f"{LOST_TWO}\n{RANK_DIES}", LaunchEnd(-9, "node failed", LOST_TWO, True, ("node2", "node3"))),
    ],
)
def test_what_srun_says(exit_code: int, output: str, expected: LaunchEnd) -> None:
    assert SrunLauncher(MPI).ended(exit_code, output) == expected


def test_a_process_says_nothing_beside_its_exit_code() -> None:
    assert ProcessLauncher(MPI).ended(137, LOST) == LaunchEnd(137)


def test_srun_runs_one_task_on_the_node() -> None:
    command = SrunLauncher(MPI).command(("python", "-m", "x"), "node7")
    assert command[0] == "srun"
    assert {"--overlap", "--ntasks=1", "--nodelist=node7", "--export=ALL"} <= set(command)


def test_srun_runs_ranks_in_blocks_and_ends_all_with_one() -> None:
    command = SrunLauncher(MpiRules(pmi="pmix")).group(("python", "-m", "x"), ("node2", "node7"), 3)
    assert {"--nodes=2", "--ntasks=6", "--ntasks-per-node=3", "--nodelist=node2,node7", "--mpi=pmix"} <= set(command)
    assert {"--distribution=block", "--kill-on-bad-exit=1", "--input=0", "--overlap"} <= set(command)
    assert command[-3:] == ("python", "-m", "x")


@pytest.mark.parametrize(
    ("mpi", "across", "here"),
    [
        (
            MpiRules(),
            "mpiexec -n 4 --ppn 2 --hosts a,b x",
            "mpiexec --launcher fork -n 2 --ppn 2 --hosts localhost x",
        ),
        (  # PALS, across nodes alone; as its manual has it, not run
            MpiRules(family="mpich", options=("--cpu-bind", "none")),
            "mpiexec --cpu-bind none -n 4 --ppn 2 --hosts a,b x",
            "mpiexec --cpu-bind none --launcher fork -n 2 --ppn 2 --hosts localhost x",
        ),
        (
            MpiRules(family="openmpi", command="/opt/bin/mpiexec", options=("-x", "PATH")),
            "/opt/bin/mpiexec -x PATH -n 4 --bind-to none --host a:2,b:2 x",
            "/opt/bin/mpiexec -x PATH --mca plm ^slurm,tm --mca ras ^slurm,tm -n 2 --bind-to none --host a:2 x",
        ),
    ],
)
def test_mpiexec_is_called_in_its_family_s_words(mpi: MpiRules, across: str, here: str) -> None:
    assert " ".join(MpiexecLauncher(mpi).group(("x",), ("a", "b"), 2)) == across
    assert " ".join(ProcessLauncher(mpi).group(("x",), ("a",), 2)) == here


@pytest.mark.parametrize(
    ("exit_code", "output", "expected"),
    [
        (3, "", LaunchEnd(3)),
        (9, "x\nYOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)", LaunchEnd(-9)),
        (139, "", LaunchEnd(-11)),
        (255, SSH, LaunchEnd(255, "node failed", SSH, True, ("node2",))),
    ],
)
def test_what_mpiexec_says(exit_code: int, output: str, expected: LaunchEnd) -> None:
    assert MpiexecLauncher(MPI).ended(exit_code, output) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("node2", ("node2",)),
        ("node[1-3,07],login", ("node1", "node2", "node3", "node07", "login")),
        ("n[08-10]-ib", ("n08-ib", "n09-ib", "n10-ib")),
        ("", ()),
    ],
)
def test_names_of_several_nodes_are_written_out(names: str, expected: tuple[str, ...]) -> None:
    assert expanded(names) == expected
