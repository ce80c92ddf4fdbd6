#!/usr/bin/env bash
# start.sh FOLDER [dbd|none] [TYPE1 TYPE2]: start a private Slurm cluster on loopback, all it writes in FOLDER (new or empty). Needs root.
#
# node1 and node2 pretend to have 64 CPUs, 512 GB and eight GPUs each, of TYPE1 and TYPE2 (l40 both). Without `dbd` there is neither
# accounting nor a completion log, as on many small sites; with it, slurmdbd on a MariaDB of its own. The ports are free
# ones, so several clusters run side by side. Ready (both nodes idle) when the script returns; use it with
#
#     export SLURM_CONF=FOLDER/etc/slurm.conf
#
# and end it with stop.sh FOLDER.
set -euo pipefail
folder=${1:?start.sh FOLDER [dbd]}
accounting=${2:-none}
gpu1=${3:-l40}
gpu2=${4:-$gpu1}
case $accounting in none | dbd) ;; *) echo "start.sh: '$accounting' is neither dbd nor none" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "start.sh: a test cluster needs root (it makes device nodes)" >&2; exit 1; }
export PATH="$PATH:/usr/sbin:/sbin"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$folder"/{etc,state,spool,log,run,dev}
folder=$(cd "$folder" && pwd)
# Daemons refuse keys and sockets in folders that others may write; jobs of other users read scripts below.
chmod 755 "$folder" "$folder"/{etc,log,run}

wait_for() { # wait_for SECONDS COMMAND...
    local deadline=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "start.sh: gave up waiting for: $*; the end of the logs in $folder/log:" >&2
            tail -n 5 "$folder"/log/*.log >&2 || true
            return 1
        fi
        sleep 0.1
    done
}
listening() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
free_ports() { # first of five consecutive free ports below the range that the kernel gives to clients
    local base offset
    while true; do
        base=$((20000 + RANDOM % 12000))
        for offset in 0 1 2 3 4; do
            if listening $((base + offset)); then continue 2; fi
        done
        echo "$base"
        return
    done
}
fill() { # fill TEMPLATE: its text, without comments, with the values of this cluster
    sed -e '/^#/d' -e "s|@FOLDER@|$folder|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@SLURMCTLD_PORT@|$port|g" \
        -e "s|@NODE1_PORT@|$((port + 1))|g" -e "s|@NODE2_PORT@|$((port + 2))|g" \
        -e "s|@GPU1@|$gpu1|g" -e "s|@GPU2@|$gpu2|g" -e "s|@SLURMDBD_PORT@|$((port + 3))|g" \
        -e "s|@DATABASE_PORT@|$((port + 4))|g" "$here/$1"
}
sql() { mariadb --no-defaults --socket="$folder/db/socket" --user=root --execute="$1"; }
cluster_known() { sacctmgr --immediate add cluster test || true; sacctmgr -nP list cluster format=cluster | grep -qx test; }
nodes_idle() { [ "$(sinfo --noheader --Node --states=idle --format=%N | sort -u | wc -l)" = 2 ]; }

"$here/hosts.sh" add "$folder" # torchrun's rendezvous looks the node names up
port=$(free_ports)
# GRES need character devices, or Slurm does not set CUDA_VISIBLE_DEVICES; these are /dev/null under other names.
for gpu in {0..7}; do mknod "$folder/dev/nvidia$gpu" c 1 3; done
fill slurm.conf.in > "$folder/etc/slurm.conf"
printf '%s\n' "${SLURM_CONF_MORE:-}" >> "$folder/etc/slurm.conf" # further settings, for a test of its own
fill gres.conf.in > "$folder/etc/gres.conf"
export SLURM_CONF=$folder/etc/slurm.conf

(umask 077 && head -c 1024 /dev/urandom > "$folder/etc/munge.key")
# --force: munged wants no root. Everything detaches from our pipes, or a caller that reads them would wait for ever.
munged --force --key-file="$folder/etc/munge.key" --socket="$folder/run/munge.socket" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed" < /dev/null > /dev/null 2>&1

if [ "$accounting" = dbd ]; then
    fill accounting.conf.in >> "$folder/etc/slurm.conf"
    install -d -o mysql -g mysql "$folder/db"
    mariadb-install-db --no-defaults --user=mysql --datadir="$folder/db" --skip-test-db > "$folder/log/mariadb.log" 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir="$folder/db" --socket="$folder/db/socket" \
        --pid-file="$folder/db/mariadbd.pid" --bind-address=127.0.0.1 --port=$((port + 4)) --skip-name-resolve \
        --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 \
        < /dev/null >> "$folder/log/mariadb.log" 2>&1 &
    wait_for 30 sql 'select 1'
    sql "create database slurm; create user slurm@127.0.0.1 identified by 'test'; grant all on slurm.* to slurm@127.0.0.1"
    (umask 077 && fill slurmdbd.conf.in > "$folder/etc/slurmdbd.conf")
    slurmdbd < /dev/null > /dev/null 2>&1
    wait_for 30 listening $((port + 3))
    wait_for 30 cluster_known # slurmctld registers with a cluster that exists
fi
slurmctld -c < /dev/null > /dev/null 2>&1
for node in node1 node2; do slurmd -N "$node" < /dev/null > /dev/null 2>&1; done
wait_for 30 nodes_idle
