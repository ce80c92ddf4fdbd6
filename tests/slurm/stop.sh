#!/usr/bin/env bash
# stop.sh FOLDER: end the cluster that start.sh FOLDER began: its jobs, then its daemons, by their pid files.
#
# FOLDER stays, with the logs. Ending a cluster that is half up or already gone is fine.
set -uo pipefail
folder=$(cd "${1:?stop.sh FOLDER}" && pwd) || exit 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF=$folder/etc/slurm.conf

is_running() { # is_running PID: a zombie, where no init reaps, counts as gone
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2> /dev/null) && [ "$state" != Z ]
}
is_daemon() { # is_daemon PID: a pid in an old file may belong to another program by now
    tr '\0' ' ' < "/proc/$1/cmdline" 2> /dev/null | grep -qE 'slurmctld|slurmd|slurmdbd|mariadbd|munged'
}

if [ -s "$folder/run/slurmctld.pid" ] && is_running "$(cat "$folder/run/slurmctld.pid")"; then
    timeout 10 squeue --noheader --format=%A 2> /dev/null | sort -u > "$folder/run/jobs"
    timeout 10 xargs -r scancel --signal=KILL --full < "$folder/run/jobs" 2> /dev/null # processes first, traps or not
    timeout 10 xargs -r scancel < "$folder/run/jobs" 2> /dev/null
    for _ in {1..30}; do
        [ -n "$(timeout 10 squeue --noheader --states=running,completing --format=%A 2> /dev/null)" ] || break
        sleep 0.1
    done
fi
status=0
for file in "$folder"/run/slurmd.*.pid "$folder/run/slurmctld.pid" "$folder/run/slurmdbd.pid" "$folder/db/mariadbd.pid" "$folder/run/munged.pid"; do
    pid=$(cat "$file" 2> /dev/null) || continue
    if [ -z "$pid" ] || ! is_running "$pid" || ! is_daemon "$pid"; then continue; fi
    kill "$pid" 2> /dev/null
    for tenth in {1..100}; do
        is_running "$pid" || break
        [ "$tenth" != 60 ] || kill -KILL "$pid" 2> /dev/null
        sleep 0.1
    done
    if is_running "$pid"; then
        echo "stop.sh: process $pid of ${file##*/} is still running" >&2
        status=1
    fi
done
"$here/hosts.sh" remove "$folder"
exit $status
