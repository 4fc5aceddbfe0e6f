#!/bin/bash
#SBATCH --job-name=hpcserve-ada-p1
#SBATCH --comment=hpcserve-ada-p1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=0-01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --chdir='/lustre/a b'
#SBATCH --output='/lustre/a b/100%%j.log'
#SBATCH --open-mode=append
#SBATCH --requeue

# Whoever submitted this may have had a token of Slurm's; sbatch sends it along, and nothing in this job is to have it.
unset SLURM_JWT
# All runs of a requeued job print to one log; by this line the daemon knows where each begins.
echo "hpcserve: run ${SLURM_RESTART_COUNT:-0} begins"

# What --export says is for this script; the steps that it starts have all of its environment.
unset SLURM_EXPORT_ENV
set -u
nodes=$SLURMD_NODENAME
# Slurm's warning goes to the process of this script, so the agent takes its place.
exec '/opt/it'"'"'s/python' -m hpcserve.pilot --record '/lustre/a b/$x.json' \
    --restart "${SLURM_RESTART_COUNT:-0}" --nodes "$nodes" --warn-s 120
