#!/bin/bash -l
#PBS -N hpcserve-ada-p1
#PBS -S '/lustre/a b/pbs-shell'
#PBS -q prod
#PBS -l select=1
#PBS -l place=scatter
#PBS -l walltime=01:00:00
#PBS -o '/lustre/a b/100%j.log.scheduler'
#PBS -j oe
#PBS -r y
#PBS -l filesystems=home:flare
#PBS -k doe

# PBS begins in the home directory and hands over what is printed when the job ends, so the log is written from here. Its
# directory may have been removed while the job was queued.
umask 077
cd '/lustre/a b' && mkdir -p -- '/lustre/a b' && exec >>'/lustre/a b/100%j.log' 2>&1 || {
    echo "hpcserve: $HOSTNAME cannot write to "'/lustre/a b/100%j.log'": does it see the site's shared_dir?" >&2
    exit 78
}
# A job that is put back into the queue begins anew, and nothing here tells how often but the server. Where it does not
# answer, the lines in the log are counted that each run begins with: runs that ended before they had printed it lack.
# SIGTERM is not heeded here, nor by what is begun from here, unless that wants to.
run=$(PATH=$PATH:${PBS_EXEC:-/opt/pbs}/bin timeout -s KILL 30 qstat -f -F json "$PBS_JOBID" |
    sed -n 's/^[[:space:]]*"run_count":[[:space:]]*\([0-9][0-9]*\),\{0,1\}$/\1/p')
if [[ $run =~ ^[1-9][0-9]*$ ]]; then
    run=$((run - 1))
else
    run=$(grep -c '^hpcserve: run [0-9]* begins$' '/lustre/a b/100%j.log')
fi
# By this line the daemon knows where each run begins.
echo "hpcserve: run $run begins"

setup_failed() {
    echo "hpcserve: a setup command of site aurora failed with exit code $1: $2" >&2
    exit 78
}
{
export ZE_FLAT_DEVICE_HIERARCHY=FLAT
} || setup_failed $? 'export ZE_FLAT_DEVICE_HIERARCHY=FLAT'
{
export ZE_AFFINITY_MASK=0,1,2,3,4,5,6,7,8,9,10,11
} || setup_failed $? 'export ZE_AFFINITY_MASK=0,1,2,3,4,5,6,7,8,9,10,11'

set -u
# A node stands there once for each of its chunks or processes, the one that this runs on first.
nodes=$(awk 'NF && !seen[$1]++ { printf "%s%s", separator, $1; separator = "," }' "${PBS_NODEFILE-/dev/null}") && [ "$nodes" ] || {
    echo "hpcserve: \$PBS_NODEFILE does not tell the names of the nodes" >&2
    exit 78
}
# What is begun takes the place of this script. PBS sends no warning before the walltime: that is a timer's there.
exec '/opt/it'"'"'s/python' -m hpcserve.pilot --record '/lustre/a b/$x.json' \
    --restart "$run" --nodes "$nodes" --walltime-s 3600 --warn-s 120
