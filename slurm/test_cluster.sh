#!/bin/bash
# A real one-node Slurm in a folder of its own, for tests; needs no systemd, no cgroups and nothing in /etc/slurm.
#   slurm/test_cluster.sh install        Debian packages, as root; says why if they can't be had
#   slurm/test_cluster.sh start FOLDER [PID]   prints what to export; ends with process PID.
#                                        Partitions: debug, grace (10 s), urgent (which preempts them)
#   slurm/test_cluster.sh stop FOLDER
set -euo pipefail

programs="slurmctld slurmd sbatch squeue munged"
export PATH=$PATH:/usr/sbin:/sbin

missing() { for program in $programs; do command -v "$program" >/dev/null || echo "$program"; done; }

install() {
    [ -n "$(missing)" ] || return 0
    [ "$(id -u)" = 0 ] || { echo "Slurm isn't installed, and installing it needs root" >&2; exit 3; }
    command -v apt-get >/dev/null || { echo "Slurm isn't installed, and there is no apt-get" >&2; exit 3; }
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; } >/dev/null 2>&1 \
        || { echo "apt-get can't install slurmctld slurmd slurm-client munge" >&2; exit 3; }
    [ -z "$(missing)" ] || { echo "not there after installing: $(missing)" >&2; exit 3; }
}

free_ports() {
    python3 -c 'import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in taken))'
}

start() {
    local folder=$1 host user ports
    host=$(hostname -s) user=$(id -un)
    mkdir -p "$folder"/{state,spool,log,munge,run}
    chmod 700 "$folder/munge" && chmod 755 "$folder/run"
    head -c 128 /dev/urandom >"$folder/munge/munge.key" && chmod 400 "$folder/munge/munge.key"
    read -r -a ports <<<"$(free_ports)"
    # A requeued job waits for as long as credentials last, 120 s unless set: cred_expire.
    cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket,cred_expire=6
CryptoType=crypto/munge
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=600
MaxArraySize=1001
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=grace Nodes=$host MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    export SLURM_CONF=$folder/slurm.conf
    munged --key-file="$folder/munge/munge.key" --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge/munged.seed" --num-threads=2 --force
    slurmctld -f "$SLURM_CONF" -c
    until_true "scontrol ping | grep -q UP" "slurmctld" "$folder/log/slurmctld.log"
    slurmd -f "$SLURM_CONF" -N "$host"
    until_true "sinfo -h -o %t | grep -q idle" "slurmd" "$folder/log/slurmd.log"
    if [ -n "${2:-}" ]; then setsid "$0" watch "$folder" "$2" </dev/null >/dev/null 2>&1 & fi
    echo "export SLURM_CONF=$SLURM_CONF"
}

watch() {
    while kill -0 "$2" 2>/dev/null && [ -f "$1/run/slurmctld.pid" ]; do sleep 1; done
    stop "$1"
}

until_true() {
    for _ in $(seq 150); do
        if eval "$1" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "$2 isn't ready after 15 s; its log: $3" >&2
    tail -n 20 "$3" >&2
    exit 1
}

stop() {
    export SLURM_CONF=$1/slurm.conf
    timeout 10 scancel --me --signal=KILL --full >/dev/null 2>&1 || true
    for name in slurmd slurmctld munged; do
        pid=$(cat "$1/run/$name.pid" 2>/dev/null) || continue
        kill -TERM "$pid" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
    done
}

case ${1:-} in
install) install ;;
start) start "$(realpath -m "$2")" "${3:-}" ;;
watch) watch "$2" "$3" ;;
stop) stop "$(realpath -m "$2")" ;;
*) sed -n '2,6s/^# *//p' "$0" >&2; exit 2 ;;
esac
