#!/usr/bin/env bash
# hosts.sh add|remove FOLDER: let node1 and node2 resolve to this host while the test cluster in FOLDER runs.
#
# A line of its own at the end of /etc/hosts for each cluster, marked with its folder, so that several come and go.
set -euo pipefail
readonly hosts=/etc/hosts
line="127.0.0.1 node1 node2 # test cluster ${2:?hosts.sh add|remove FOLDER}"
exec 9<> "$hosts"
flock 9
# Written in place, as /etc/hosts may be a mount.
rest=$(grep -vxF -- "$line" "$hosts" || true)
case $1 in
    add) printf '%s\n' "$rest" "$line" > "$hosts" ;;
    remove) printf '%s\n' "$rest" > "$hosts" ;;
    *) echo "hosts.sh: add or remove" >&2; exit 2 ;;
esac
