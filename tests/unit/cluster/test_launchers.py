"""What srun's exit code and its own lines say of a replica's end; the lines are those of Slurm 22.05."""

import pytest

from hpcserve.cluster.launchers import ProcessLauncher, SrunLauncher
from hpcserve.cluster.seam import LaunchEnd

KILLED = "srun: error: node2: task 0: Killed"
STEP = "slurmstepd-node2: error: *** STEP 1.3 ON node2 CANCELLED AT 2026-01-21T19:12:35"
OVER = "slurmstepd-node1: error: StepId=5.0 exceeded memory limit (682979328 > 209715200), being killed"
OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
TASK_OOM = "srun: error: node2: task 0: Out Of Memory"
LOST = "srun: error: Node failure on node2"
GONE = "srun: error: Unable to create step for job 1: Requested node configuration is not available"
AWAY = "srun: error: Unable to confirm allocation for job 2: Socket timed out on send/recv operation"


@pytest.mark.parametrize(
    ("exit_code", "output", "expected"),
    [
        (0, "", LaunchEnd(0)),
        (3, "srun: error: node2: task 0: Exited with exit code 3", LaunchEnd(3)),
        (139, "srun: error: node2: task 0: Segmentation fault", LaunchEnd(-11)),
        (137, KILLED, LaunchEnd(-9)),
        (-9, "", LaunchEnd(-9)),
        (255, "", LaunchEnd(255)),
        (0, f"hello\n{LOST}", LaunchEnd(0, "node failed", LOST, lost_node=True)),
        (1, GONE, LaunchEnd(1, "node failed", GONE, lost_node=True)),
        (1, AWAY, LaunchEnd(1, "unreachable", AWAY)),
        (137, f"{OVER}\n{STEP} ***\n{KILLED}", LaunchEnd(-9, "out of memory", OVER)),
        (137, f"{OOM}\n{KILLED}", LaunchEnd(-9, "out of memory", OOM)),
        (1, TASK_OOM, LaunchEnd(1, "out of memory", TASK_OOM)),
        (137, f"{STEP} ***", LaunchEnd(-9, "cancelled", f"{STEP} ***")),
        (137, f"{STEP} DUE TO TIME LIMIT ***", LaunchEnd(-9, "walltime", f"{STEP} DUE TO TIME LIMIT ***")),
        (137, f"{STEP} DUE TO PREEMPTION ***", LaunchEnd(-9, "preempted", f"{STEP} DUE TO PREEMPTION ***")),
        (1, f"the servable prints: {LOST}", LaunchEnd(1)),
    ],
)
def test_what_srun_says(exit_code: int, output: str, expected: LaunchEnd) -> None:
    assert SrunLauncher().ended(exit_code, output) == expected


def test_a_process_says_nothing_beside_its_exit_code() -> None:
    assert ProcessLauncher().ended(137, LOST) == LaunchEnd(137)


def test_srun_runs_one_task_on_the_node() -> None:
    command = SrunLauncher().command(("python", "-m", "x"), "node7")
    assert command[0] == "srun"
    assert {"--overlap", "--ntasks=1", "--nodelist=node7", "--export=ALL"} <= set(command)
