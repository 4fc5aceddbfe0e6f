"""The configuration files of a box's Slurm, as text. What each does, slurm.conf(5) and its neighbours say."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.facility.box.options import (
    CPUS_PER_NODE,
    DEBUG_LIMIT_MIN,
    GPU_NODES,
    GPUS_PER_NODE,
    MEMORY_PER_NODE_MIB,
    Options,
)

LOGIN = "login"
CLUSTER = "box"
PROJECT = Path(__file__).resolve().parents[3]


def logins(options: Options) -> list[str]:
    """The names of the login nodes: ``login``, ``login2``, …"""
    return [LOGIN, *(f"{LOGIN}{index}" for index in range(2, options.logins + 1))]


def nodes(options: Options) -> list[str]:
    """The names of the compute nodes: ``node1``, ``node2``, …"""
    return [f"node{index}" for index in range(1, options.nodes + 1)]


def is_login(host: str) -> bool:
    """Whether a host of this name is a login node."""
    return host.startswith(LOGIN)


def address_of(host: str) -> str:
    """The address of the host of this name."""
    if is_login(host):
        return f"10.77.0.{host.removeprefix(LOGIN) or 1}"
    return f"10.77.0.{10 + int(host.removeprefix('node'))}"


def write_all(directory: Path, options: Options) -> None:
    """Writes everything that a box's programs read below ``directory/etc``."""
    etc = directory / "etc"
    etc.mkdir()
    texts = {
        "hosts": _hosts(options),
        "slurm.conf": _slurm(directory, options),
        "slurmdbd.conf": _slurmdbd(directory),
        "gres.conf": f"NodeName=node[1-{GPU_NODES}] Name=gpu Type=fake File={_gpus(directory)}\n",
        # The box touches no control groups; without a word slurmd would ask systemd for some.
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        "prolog": _prolog(directory),
        "task-prolog": _task_prolog(directory),
    }
    for name, text in texts.items():
        (etc / name).write_text(text)
    (directory / "bin").mkdir()
    for action in ("off", "on"):
        power = directory / "bin" / f"power-{action}"
        power.write_text(_power(directory, action))
        power.chmod(0o755)
    (etc / "slurmdbd.conf").chmod(0o600)
    for script in ("prolog", "task-prolog"):
        (etc / script).chmod(0o755)


def _gpus(directory: Path) -> str:
    return f"{directory}/run/nvidia[0-{GPUS_PER_NODE - 1}]"


def _hosts(options: Options) -> str:
    hosts = [f"{address_of(host)} {host}" for host in (*logins(options), *nodes(options))]
    return "\n".join(["127.0.0.1 localhost", *hosts, ""])


def _prolog(directory: Path) -> str:
    """Each node runs it before a job's first process, in the job's own time: it may take long."""
    return f'#!/bin/sh\npause={directory}/clock/prolog\nif [ -e "$pause" ]; then sleep "$(cat "$pause")"; fi\n'


def _task_prolog(directory: Path) -> str:
    """Slurm puts what this prints into the environment of each task: the clock of a node may be wrong."""
    return f'#!/bin/sh\nclock={directory}/clock/$SLURMD_NODENAME\nif [ -e "$clock" ]; then cat "$clock"; fi\n'


def _power(directory: Path, action: str) -> str:
    """For those who try things by hand on the login node; tests have ``Box.power_off`` and ``Box.power_on``."""
    return f"""\
#!/bin/sh
cd "{PROJECT}"
exec "{sys.executable}" -m tests.facility.box.power "{directory}" {action} "$@"
"""


def _auth(directory: Path) -> str:
    # cred_expire: a job that is requeued waits so long before it may begin again.
    return f"AuthType=auth/munge\nAuthInfo=socket={directory}/private/munge.sock,cred_expire=5"


def _slurmdbd(directory: Path) -> str:
    return f"""\
{_auth(directory)}
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile={directory}/log/slurmdbd.log
PidFile={directory}/run/slurmdbd.pid
"""


def _slurm(directory: Path, options: Options) -> str:
    enforce = f"AccountingStorageEnforce={options.enforce}\n" if options.enforce else ""
    size = (
        f"CPUs={CPUS_PER_NODE} Boards=1 SocketsPerBoard=1 CoresPerSocket={CPUS_PER_NODE} ThreadsPerCore=1 "
        f"RealMemory={MEMORY_PER_NODE_MIB} State=UNKNOWN"
    )
    every, with_gpus, others = (
        f"node[1-{options.nodes}]",
        f"node[1-{GPU_NODES}]",
        f"node[{GPU_NODES + 1}-{options.nodes}]",
    )
    without = f"NodeName={others} {size}\n" if options.nodes > GPU_NODES else ""
    return f"""\
ClusterName={CLUSTER}
SlurmctldHost={LOGIN}({address_of(LOGIN)})
SlurmUser=root
{_auth(directory)}
CredType=cred/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
TmpFS={directory}/private/tmp
Prolog={directory}/etc/prolog
# A job of which slurmctld hears nothing for so long is taken for lost, also while its prolog runs.
BatchStartTimeout=60
TaskProlog={directory}/etc/task-prolog
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
SlurmctldTimeout=10
SlurmdTimeout={options.slurmd_timeout_s}
MessageTimeout=5
KillWait={options.kill_wait_s}
MinJobAge={options.min_job_age_s}
MaxJobCount={options.max_jobs}
MaxArraySize={options.max_jobs}
InactiveLimit=0
OverTimeLimit=0
ReturnToService=2
JobRequeue=1
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
# Microseconds between two rounds; a job starts as soon as it can.
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,batch_sched_delay=0,nohold_on_prolog_fail
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Works with either generation of control groups, and with none.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePass={directory}/private/munge.sock
AccountingStorageTRES=gres/gpu
{enforce}\
# The nodes are larger than the machine, perhaps.
SlurmdParameters=config_overrides
NodeName={with_gpus} Gres=gpu:fake:{GPUS_PER_NODE} {size}
{without}\
PartitionName=DEFAULT MaxTime=7-0 DefaultTime=10 PriorityTier=10 PreemptMode=off State=UP
PartitionName=batch Nodes={every} Default=YES
PartitionName=gpu Nodes={with_gpus}
PartitionName=debug Nodes={every} MaxTime={DEBUG_LIMIT_MIN} DefaultTime=1
PartitionName=preempt Nodes={every} PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
"""
